"""Types of index.pyx: nothing of it is for Python."""
