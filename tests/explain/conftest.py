"""Fixtures of the tests of explaining."""

from collections.abc import Iterator

import pytest

from tests.support.light_compilation import compiled_lightly


@pytest.fixture(scope="package", autouse=True)
def _compiled_lightly() -> Iterator[None]:
    """Tests in this folder look for an origin; `reduce/` tests the digits, as users compile."""
    with compiled_lightly():
        yield
