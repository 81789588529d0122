"""The NATS text protocol in plain Python: cold paths, tools, and the oracle for hot/."""
