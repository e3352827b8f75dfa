"""Devices and processes: where arrays live, and what all processes of a run agree on."""
