"""What all tests of the program share."""

from collections.abc import Iterator

import pytest

from tests.train.compiling import compiled_once


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Tests train a configuration many times: stopped, resumed, straight."""
    with compiled_once():
        yield
