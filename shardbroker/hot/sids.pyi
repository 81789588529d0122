"""Types of sids.pyx: it has no Python face."""
