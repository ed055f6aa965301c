"""Inference: from images and questions to named masks, without an annotator."""
