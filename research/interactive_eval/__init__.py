"""What help while annotating is worth, by simulated annotators: one file per figure."""
