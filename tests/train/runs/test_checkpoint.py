import gc
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.full_disk import file_size_limit
from tests.train.running import CONFIGS, TINY_DIGITS, digits, points, run, run_until, saved_arrays
from train import __main__ as program
from train.config.errors import RunWarning
from train.runs.checkpoint import Checkpoints, NotSavedError
from train.runs.folder import RunFolderError


def state_of(step: int) -> Any:
    """A state with an array that is compressed, one that is not worth it, and scalars."""
    return {
        "step": jnp.int32(step),
        "weights": jax.random.normal(jax.random.key(step), (64, 300)),
        "bias": jnp.full(3, step, jnp.bfloat16),
    }


def like() -> Any:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state_of(0))


def save(folder: Path, *steps: int, keep: int = 2) -> None:
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step))


def restore(folder: Path) -> int | None:
    """Return the step that is read, and check that the state is that step's."""
    with Checkpoints(folder, keep=2) as checkpoints:
        found = checkpoints.restore(like())
    if found is None:
        return None
    state, step = found
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(step)), strict=True):
        np.testing.assert_array_equal(one, other)
    return step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    os.truncate(file, 0)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [remove, empty, halve])
def test_whatever_is_cut_off_a_checkpoint_its_whole_state_is_read_or_the_one_before(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Each file in turn: never another state, never an error, and never without a word."""
    save(tmp_path / "whole", 3, 7)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "7").rglob("*")]
    read: dict[str, int | None] = {}
    for file in files:
        if not (tmp_path / "whole" / file).is_file():
            continue
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", copy)
        damage(copy / file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read[str(file)] = restore(copy)
        assert [str(warning.message).split(" cannot")[0] for warning in caught] == (
            [f"the checkpoint {copy / '7'}"] if read[str(file)] == 3 else []
        )
        assert names(copy) == (["3", "7.unreadable"] if caught else ["3", "7"])
    assert set(read.values()) <= {3, 7}
    assert {name for name, step in read.items() if step == 7} <= {"7/files.json"}


def flip(file: Path) -> None:
    """Change bytes, and no size."""
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    content[::7] ^= 0x55
    file.write_bytes(content.tobytes())


def flip_one_bit(file: Path) -> None:
    """Change a bit in the middle: of an array, say, whose form stays valid."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damaged", "damage"),
    [
        ("default/d/*", flip),
        ("default/d/*", flip_one_bit),
        ("default/manifest.ocdbt", flip),
        ("default/_METADATA", flip),
        ("files.json", flip),
        ("files.json", remove),
    ],
)
def test_damage_that_no_size_shows_is_quarantined_without_a_page_of_errors(
    damaged: str, damage: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The checksum of a file differs, or the list of checksums is damaged or gone."""
    save(tmp_path, 3, 7)
    for file in (tmp_path / "7").glob(damaged):
        damage(file)
    with pytest.warns(RunWarning, match=r"cannot be read: \w+: .*7.* the run goes on from the checkpoint of"):
        assert restore(tmp_path) == 3
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_that_cannot_be_read_is_quarantined_with_its_cause(tmp_path: Path) -> None:
    """The warning names the folder, the cause and the remedy; the step can be saved anew, and read."""
    save(tmp_path, 3, 7)
    os.truncate(tmp_path / "7" / "default" / "_METADATA", 10)
    with pytest.warns(RunWarning, match="cannot be read") as caught:
        assert restore(tmp_path) == 3
    assert re.fullmatch(
        rf"the checkpoint {tmp_path / '7'} cannot be read: ValueError: its file default/_METADATA has 10"
        r" bytes, and had \d+\. It is now 7\.unreadable there, and the run goes on from the checkpoint of "
        r"step 3\.",
        str(caught[0].message),
    )
    save(tmp_path, 7)
    assert restore(tmp_path) == 7
    shutil.rmtree(tmp_path / "7" / "default")
    with pytest.warns(RunWarning, match=r"It is now 7\.unreadable-2 there"):
        assert restore(tmp_path) == 3


def test_several_are_skipped_until_one_can_be_read(tmp_path: Path) -> None:
    """Each with a warning."""
    save(tmp_path, 1, 2, 3, keep=3)
    for step in ("2", "3"):
        shutil.rmtree(tmp_path / step / "default" / "d")
    with pytest.warns(RunWarning, match="goes on from the checkpoint of step 1") as caught:
        assert restore(tmp_path) == 1
    assert len(caught) == 2


def test_if_none_can_be_read_nothing_is_touched_and_nothing_trained(tmp_path: Path) -> None:
    """The error has each cause and the next move; no checkpoint at all is no error."""
    assert restore(tmp_path) is None
    save(tmp_path, 3, 7)
    for step in ("3", "7"):
        halve(tmp_path / step / "default" / "_METADATA")
    with pytest.raises(RunFolderError, match=r"(?s)no checkpoint of this run can .*/7: .*/3: .*delete"):
        restore(tmp_path)
    assert names(tmp_path) == ["3", "7"]


def test_a_state_of_another_structure_is_an_error_and_stays(tmp_path: Path) -> None:
    """As of a model that was changed: the way out is named."""
    save(tmp_path, 3)
    with (
        Checkpoints(tmp_path, keep=2) as checkpoints,
        pytest.raises(RunFolderError, match="model or its optimizer was changed, give another --workdir"),
    ):
        checkpoints.restore({**like(), "more": like()["bias"]})
    assert restore(tmp_path) == 3


def test_what_a_kill_left_half_saved_or_half_deleted_is_cleared(tmp_path: Path) -> None:
    """It is none of the checkpoints, takes no space, and raises no warning."""
    save(tmp_path, 3, 7)
    shutil.copytree(tmp_path / "7" / "default", tmp_path / "9.part.orbax-checkpoint-tmp" / "default")
    shutil.copytree(tmp_path / "7", tmp_path / "8.part")
    shutil.copytree(tmp_path / "3", tmp_path / "1.deleted")
    (tmp_path / "notes").mkdir()
    assert restore(tmp_path) == 7
    assert names(tmp_path) == ["3", "7", "notes"]


def test_a_save_that_fails_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """On a disk that takes no more than a kilobyte a file; the error says which folder and why."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(3, state_of(3))
        with file_size_limit(1000), pytest.raises(NotSavedError, match=r"/7 cannot be written: .*too large"):
            checkpoints.save(7, state_of(7))
        assert (names(tmp_path), checkpoints.newest) == (["3"], 3)
        checkpoints.save(7, state_of(7))
        checkpoints.save(9, state_of(9))
    assert names(tmp_path) == ["7", "9"]
    assert restore(tmp_path) == 9


def test_a_run_whose_newest_checkpoint_is_cut_off_is_bitwise_one_that_was_not_stopped(tmp_path: Path) -> None:
    """It takes up the one before, and trains and logs the later steps again."""
    config = digits("ema=0.9")
    run(config, tmp_path / "straight")
    assert run_until(config, tmp_path / "cut", 9).step == 10
    for file in (tmp_path / "cut" / "checkpoints" / "10").rglob("*"):
        if file.is_file():
            halve(file)
    with pytest.warns(RunWarning, match="goes on from the checkpoint of step 8"):
        assert run(config, tmp_path / "cut").updates == 4
    assert points(tmp_path / "cut") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "cut", 12) == saved_arrays(tmp_path / "straight", 12)
    assert names(tmp_path / "cut" / "checkpoints") == ["10.unreadable", "12", "8"]


def test_the_program_ends_with_status_2_if_no_checkpoint_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In lines, and the run stays as it was."""
    run_until(digits(), tmp_path, 9)
    before = points(tmp_path)
    for step in ("8", "10"):
        (tmp_path / "checkpoints" / step / "default" / "_METADATA").unlink()
    assert program.main([str(CONFIGS / "digits.yaml"), *TINY_DIGITS, "--workdir", str(tmp_path)]) == 2
    first, *causes, what_to_do = capsys.readouterr().err.splitlines()
    assert first == "no checkpoint of this run can be read, and none was touched:"
    assert causes == [
        f"  {tmp_path}/checkpoints/{step}: FileNotFoundError: it has no file default/_METADATA"
        for step in (10, 8)
    ]
    assert what_to_do.endswith(f"delete {tmp_path}/checkpoints.")
    assert points(tmp_path) == before
    assert names(tmp_path / "checkpoints") == ["10", "8"]
