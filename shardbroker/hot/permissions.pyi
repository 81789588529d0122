"""Types of permissions.pyx: nothing of it is for Python."""
