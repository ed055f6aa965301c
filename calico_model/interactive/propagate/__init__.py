"""The same part in the other images of a group, and its like beside it."""
