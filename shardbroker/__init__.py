"""A message broker for every NATS client, sharded over the cores of one host."""

__version__ = "0.1.0"
