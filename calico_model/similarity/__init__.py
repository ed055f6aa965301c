"""Which photographs show the same kind of thing, and which are one picture saved twice."""
