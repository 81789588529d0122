"""Types of compact.pyx: nothing of it is for Python."""
