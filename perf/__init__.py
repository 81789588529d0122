"""Benchmarks: how fast the broker is, beside other NATS servers on the same machine. Not part of the package."""
