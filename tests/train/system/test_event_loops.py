import asyncio

import pytest

from train.system.event_loops import draining


async def _fail_beside_a_write(ended: list[str]) -> None:
    async def write() -> None:
        await asyncio.sleep(0.05)
        ended.append("write")

    async def fail() -> None:
        raise OSError("no space left")

    await asyncio.gather(write(), fail())


def test_a_loop_ends_after_the_tasks_that_a_failure_left() -> None:
    """The other write has ended when the loop is closed; outside of the context loops are as before."""
    ended: list[str] = []
    with draining():
        loop = asyncio.new_event_loop()
        with pytest.raises(OSError, match="no space left"):
            loop.run_until_complete(_fail_beside_a_write(ended))
        assert ended == []
        loop.close()
    assert ended == ["write"]
    other = asyncio.new_event_loop()
    other.close()
    assert type(other) is not type(loop)
