"""Choosing the number of shards: a workload, a sweep over worker counts, advice, a report."""
