"""Types of transform.pyx: nothing of it is for Python."""
