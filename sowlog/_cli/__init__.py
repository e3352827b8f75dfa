"""The command line: `python -m sowlog`, on the runs that event files hold."""
