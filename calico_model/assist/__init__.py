"""Help while annotating: what cached features can tell without another encoder pass."""
