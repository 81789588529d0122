"""Types of files.pyx: nothing of it is for Python."""
