"""Sowing in a Flax module, and collecting what was sown."""
