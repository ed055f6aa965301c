"""Training: one engine; pre-training, fine-tuning on records, add-ons, and the online update."""
