"""The wire door: every Label Studio format lives here and nowhere else."""
