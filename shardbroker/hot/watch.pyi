"""Types of watch.pyx: nothing is visible from Python."""
