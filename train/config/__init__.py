"""The configuration of an experiment: its schema, and how it is read, explained and listed."""
