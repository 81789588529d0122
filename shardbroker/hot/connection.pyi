"""Types of connection.pyx: nothing of it is for Python."""
