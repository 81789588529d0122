"""Types of deliver.pyx: nothing of it is for Python."""
