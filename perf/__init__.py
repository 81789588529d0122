"""Benchmarks: how fast the broker is, beside other NATS servers here. Not part of the package."""
