"""Types of exchange.pyx: nothing of it is for Python."""
