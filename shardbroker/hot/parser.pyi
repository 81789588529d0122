"""Types of parser.pyx: nothing of it is for Python."""
