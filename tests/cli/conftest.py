import json

import pytest

from sowlog._cli.main import main


@pytest.fixture
def sowlog_command(capsys):
    """Return a function that runs a command line, and returns its status, output and errors."""

    def run(*arguments):
        status = main(list(map(str, arguments)))
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.fixture
def json_of(sowlog_command):
    """Return a function that runs a command line with --json, and returns its status and its data."""

    def run(command, *arguments):
        status, output, errors = sowlog_command(command, "--json", *arguments)
        assert output.count("\n") == 1, errors
        # Strict JSON has no NaN.
        return status, json.loads(output, parse_constant=pytest.fail)

    return run
