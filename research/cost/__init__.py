"""What a group of images costs to answer, counted on the real network without memory."""
