"""Learning: from corrections to a better adapter."""
