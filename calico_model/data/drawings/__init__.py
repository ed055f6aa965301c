"""Line drawings of the catalogue's objects in a unit frame, one builder per category."""
