"""Types of filter.pyx: nothing of it is for Python."""
