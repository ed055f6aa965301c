"""Segmenters that stand beside CALICO: SAM and its family, words to masks, dense features."""
