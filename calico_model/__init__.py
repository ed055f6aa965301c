"""CALICO: part segmentation and naming over a group of images.

Importing this package loads nothing heavy; `calico_model.types` needs numpy alone.
"""
