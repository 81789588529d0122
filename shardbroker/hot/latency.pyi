"""Types of latency.pyx: nothing of it is for Python."""
