"""Sowing in a Flax module, and collecting the sown values."""
