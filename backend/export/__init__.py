"""Annotations of a project -> a data set on disk, in the format of other tools or of our own.

Two steps. `gathering.py` reads tasks one at a time, brings their images into the folder and keeps
every mask as run lengths. Then a writer (`coco.py`, `yolo.py`, `voc.py`, `records.py`) writes one
image at a time.
"""
