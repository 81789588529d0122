"""Types of transport.pyx: it has no Python face."""
