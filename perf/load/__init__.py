"""The loads of perf.compare: the table (shapes) and a command for one of them. The generator is shardbroker.bench."""
