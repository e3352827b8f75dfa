"""Rates and health of a run: steps and FLOPs per second, waits, memory, compilations."""
