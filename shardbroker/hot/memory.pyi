"""Types of memory.pyx: nothing of it is for Python."""
