"""How weights are made: pre-training and online updates."""
