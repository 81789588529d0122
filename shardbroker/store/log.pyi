"""Types of log.pyx: nothing of it is for Python."""
