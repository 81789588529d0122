"""Types of sublist.pyx: nothing of it is for Python."""
