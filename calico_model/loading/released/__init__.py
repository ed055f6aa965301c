"""Released checkpoints of others, read in their own names and put together as one Calico."""
