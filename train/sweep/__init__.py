"""Sweeps: points, the workers that train them, and the table of their results."""
