"""Help while annotating, from cached features: clicks, names, the same part elsewhere."""
