"""Sowing in any function, and collecting the sown values."""
