"""What all tests of the program share."""

from collections.abc import Iterator

import jax
import pytest

from tests.train.compiling import compiled_once


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Tests train a configuration many times: stopped, resumed, straight."""
    with compiled_once():
        yield


@pytest.fixture(scope="package", autouse=True)
def _compiled_fast() -> Iterator[None]:
    """Compile with less optimization, in half the time, here and in the processes that tests begin.

    A test in this folder compares runs with runs, all compiled alike; sowlog's own numbers have their tests
    elsewhere, under full optimization.
    """
    option = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(option.upper(), "1")
        jax.config.update(option, True)
        yield
        jax.config.update(option, False)
