"""Types of person.pyx: nothing of it is for Python."""
