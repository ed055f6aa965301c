"""Training of parts that are added to a frozen CALICO."""
