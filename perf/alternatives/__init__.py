"""Designs that were measured against ours, kept so that anyone can measure them again."""
