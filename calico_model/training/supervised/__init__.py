"""Supervised fine-tuning on a folder of records: the paper's training."""
