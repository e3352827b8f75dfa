"""Reducers and their states: the accumulation of sown values, and its accuracy."""
