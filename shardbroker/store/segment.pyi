"""Types of segment.pyx: nothing of it is for Python."""
