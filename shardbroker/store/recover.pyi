"""Types of recover.pyx: nothing of it is for Python."""
