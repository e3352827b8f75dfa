"""Fixtures of all tests of the program."""

from collections.abc import Iterator

import pytest

from tests.support.light_compilation import compiled_lightly
from tests.train.compiling import compiled_once


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Tests train a configuration many times: stopped, resumed, straight."""
    with compiled_once():
        yield


@pytest.fixture(scope="package", autouse=True)
def _compiled_lightly() -> Iterator[None]:
    """A test in this folder compares runs with runs; sowlog's own numbers have their tests elsewhere."""
    with compiled_lightly():
        yield
