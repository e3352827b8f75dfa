"""Errors of the user of the command line."""


class UsageError(Exception):
    """A request that cannot be met: the message names the cause and the next move; exit status 2."""
