"""Training from scratch on drawn scenes: every stage of the shipped weights."""
