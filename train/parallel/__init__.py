"""Devices and processes: the placement of arrays, and the agreement of all processes of a run."""
