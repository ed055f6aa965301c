"""Groups with exact truth: a procedural generator and readers of the MixedParts record format."""
