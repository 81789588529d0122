"""Types of read.pyx: nothing of it is for Python."""
