"""Types of writer.pyx: nothing of it is for Python."""
