"""Seeing: from a request to masks."""
