"""`read` on files that other programs wrote (`corpus/`), and on changed ones, beside TensorBoard's reader."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sowlog
from sowlog._events.framing import frame
from tests.support.any_points import UNREADABLE, sowlog_points, tensorboard_points

CORPUS = Path(__file__).parent / "corpus" / "files"
RUNS = sorted({path.parent.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*tfevents*")})


def assert_equal(found, expected):
    """Assert that all points are equal, but for values that TensorBoard cannot decode."""
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        for ours, theirs in zip(found[tag], points, strict=True):
            assert ours == theirs or (theirs[2] == UNREADABLE and ours[:2] == theirs[:2]), tag


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_another_program_is_read_as_tensorboard_reads_it(name, tmp_path):
    """Values, steps, wall times and order of all kinds, without superseded points."""
    run = sowlog.read(shutil.copytree(CORPUS / name, tmp_path / "run"))
    found, expected = sowlog_points(run), tensorboard_points(run.path)
    assert run.damage == ()
    assert_equal(found, expected)


def test_what_tensorboard_does_not_decode_is_read():
    """Torch lists the bits of a float32 for halves, and its uint8 in a field of their own; bfloat16."""
    torch, tensorflow = (sowlog.read(CORPUS / name / "tensors") for name in ("torch", "tensorflow"))
    counted = np.arange(6).reshape(2, 3)
    for run, start, names in (
        (torch, 0, ("half/2(2, 3)", "bfloat16/2(2, 3)", "uint8/2(2, 3)")),
        (tensorflow, 1, ("bfloat16/2/6", "uint32/2/6", "uint64/2/6")),
    ):
        for name in names:
            np.testing.assert_array_equal(run.tensors[name].values[0], counted + start)
    for name in ("uint32", "uint64"):
        assert tensorflow.tensors[f"{name}/2/0"].values[0].shape == (2, 0)
    assert torch.tensors["half/1(3,)"].values[0].dtype == np.float16
    assert torch.tensors["uint8/1(3,)"].values[0].dtype == np.uint8
    with pytest.raises(
        ValueError, match=r"a value of int4/1/3, .*: a tensor of TensorFlow's dtype 29 has no array\.$"
    ):
        tensorflow.tensors["int4/1/3"].values[0]


def test_a_tag_whose_points_are_all_superseded_is_not_there():
    """So a last value is there for each tag; a notebook's table, too."""
    run = sowlog.read(CORPUS / "torch" / "purge")
    assert sorted(run.scalars) == ["a", "b"] == sorted(run.wall_times)
    assert "only before" not in run._repr_html_()


def payloads(path):
    """Return the payloads of a file."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(data[12 : 12 + size])
        data = data[16 + size :]
    return found


SMALL = sorted(path for path in CORPUS.rglob("*tfevents*") if path.stat().st_size < 10_000)


@st.composite
def changed_payloads(draw):
    """Return the payloads of a file with changed bytes, swapped payloads, and payloads of another file."""
    made = [bytearray(payload) for payload in payloads(draw(st.sampled_from(SMALL)))]
    for _ in range(draw(st.integers(1, 4))):
        index, other = (draw(st.integers(0, len(made) - 1)) for _ in range(2))
        start = draw(st.integers(0, len(made[index])))
        match draw(st.sampled_from(["flip", "replace", "swap", "insert"])):
            case "flip" if start < len(made[index]):
                made[index][start] ^= 1 << draw(st.integers(0, 7))
            case "replace":
                end = start + draw(st.integers(0, 3))
                made[index][start:end] = draw(st.binary(max_size=3))
            case "swap":
                made[index], made[other] = made[other], made[index]
            case _:
                foreign = payloads(draw(st.sampled_from(SMALL)))
                made.insert(index, bytearray(draw(st.sampled_from(foreign))))
    return [bytes(payload) for payload in made]


@given(changed=changed_payloads())
def test_changed_records_are_read_or_named(changed, tmp_path_factory):
    """With right checksums: an error is damage, or a ValueError where the value is used."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "events.out.tfevents.1.host").write_bytes(b"".join(map(frame, changed)))
    run = sowlog.read(folder)
    assert sowlog_points(run) or not (run.scalars or run.tensors)
    assert run._repr_html_().startswith("<")
    assert len(run.to_numpy()["step"]) == sum(len(series.steps) for series in run.scalars.values())


# One tag of this run has points of two kinds, whose common order sowlog does not have.
ORDERED = [path for path in SMALL if path.parent.name != "raw_scalars"]


@st.composite
def reordered_payloads(draw):
    """Return the payloads of a file behind its version in any order, with some left out and some repeated."""
    version, *others = payloads(draw(st.sampled_from(ORDERED)))
    return [version, *draw(st.lists(st.sampled_from(others or [version]), max_size=12))]


@given(reordered=reordered_payloads())
def test_records_in_another_order_are_read_as_tensorboard_reads_them(reordered, tmp_path_factory):
    """Steps that go back, restarts at any place, and first values without metadata."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "events.out.tfevents.1.host").write_bytes(b"".join(map(frame, reordered)))
    expected = tensorboard_points(folder)
    assert_equal(sowlog_points(sowlog.read(folder)), expected)
