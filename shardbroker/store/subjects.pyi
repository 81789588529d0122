"""Types of subjects.pyx: nothing of it is for Python."""
