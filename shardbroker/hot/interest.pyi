"""interest.pyx has nothing for Python: it is cimported by the engine."""
