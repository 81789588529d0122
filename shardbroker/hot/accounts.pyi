"""Types of accounts.pyx: nothing of it is for Python."""
