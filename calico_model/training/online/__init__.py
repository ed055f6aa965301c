"""The online update: corrections and replay in, an adapter out."""
