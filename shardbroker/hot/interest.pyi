"""Types of interest.pyx: nothing of it is for Python."""
