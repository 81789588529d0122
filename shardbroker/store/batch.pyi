"""Types of batch.pyx: nothing of it is for Python."""
