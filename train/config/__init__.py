"""The configuration of an experiment: its schema, its reader, and its help."""
