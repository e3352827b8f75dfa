"""Fixtures of the tests of sowing."""

from collections.abc import Iterator

import pytest

from tests.support.light_compilation import compiled_lightly


@pytest.fixture(scope="package", autouse=True)
def _compiled_lightly() -> Iterator[None]:
    """Tests in this folder compare which values arrive; `reduce/` tests the digits, as users compile."""
    with compiled_lightly():
        yield
