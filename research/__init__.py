"""Measurements of the product: not part of the wheel, and nothing of the product imports them."""
