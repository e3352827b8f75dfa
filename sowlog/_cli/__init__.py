"""The command line: `python -m sowlog`, on runs of event files and of JSON lines."""
