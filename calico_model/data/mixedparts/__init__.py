"""MixedParts: building its records from three public part data sets, and reading them.

coco          one annotation file of a source, read lazily
source        what the three sources have in common
paco, partimagenet, ade   where each keeps what, and how it names parts
folders       the layout of a set on disk
classes       which object classes are comparable; `classes.toml` is the default
sheet         what shows in one image, measured in pixels
sampling      balanced draws of images that can make a record
making        the records of one source
building      records of all sources, written to disk
reading       records with their truth, one group at a time
"""
