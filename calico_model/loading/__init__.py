"""Loading: checkpoints, released weights, and where each part of the network lives."""
