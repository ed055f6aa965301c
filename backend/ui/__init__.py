"""The page for people at /ui: how learning stands, and the way back."""
