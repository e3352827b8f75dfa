"""The commands on runs of JSON lines."""

import json
import os

import numpy as np
import pytest

import sowlog
from sowlog.writers import HParams, JsonLines, Record
from tests.support.full_disk import file_size_limit


def write(folder, values, seed):
    """Write a run of JSON lines, whose steps have one scalar."""
    writer = JsonLines(folder)
    writer.write(Record(0, 1.0, hparams=HParams({"seed": seed}, ())))
    for step, value in enumerate(values):
        texts = {"note": "half"} if step == 1 else {}
        writer.write(Record(step, 1.0 + step, ("loss",), np.array([value], np.float32), texts=texts))
    writer.close()
    return writer.path


@pytest.fixture
def runs(tmp_path):
    """Return a folder of two runs."""
    write(tmp_path / "runs" / "a", [1.0, 0.5], 0)
    write(tmp_path / "runs" / "b", [1.0, 0.25], 1)
    return tmp_path / "runs"


def test_show_has_scalars_settings_and_other_values(runs, json_of):
    """Of the folder, and of the file."""
    for path in (runs / "a", runs / "a" / "metrics.jsonl"):
        status, data = json_of("show", path)
        assert (status, data["hparams"], data["damage"]) == (0, {"seed": 0}, [])
        assert [(row["tag"], row["points"], row["last"]) for row in data["tags"]] == [("loss", 2, 0.5)]
        assert data["others"] == [{"tag": "note", "kind": "text", "points": 1, "last_step": 1}]


def test_compare_has_the_step_at_which_runs_part(runs, json_of):
    """Of all runs below a folder, as a group of seeds."""
    status, data = json_of("compare", runs)
    assert status == 0
    assert data["runs"] == [str(runs / name) for name in "ab"]
    assert data["parting"] == {"step": 1, "tags": ["loss"]}
    assert len(data["groups"]) == 1


def test_tail_has_the_last_steps(runs, json_of):
    """With their wall times."""
    assert json_of("tail", "-n", 1, runs / "b") == (
        0,
        {"step": 1, "time": 2.0, "scalars": {"loss": 0.25}},
    )


def test_check_finds_damage_and_repairs_it(runs, tmp_path, json_of):
    """The copy has the whole lines, of which those behind the damage are counted; a cut line is no damage."""
    assert json_of("check", runs)[1]["ok"]
    path = runs / "a" / "metrics.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((first, b"damage\n", *others, others[0][:20])))
    status, data = json_of("check", runs / "a", "--repair", tmp_path / "copy")
    (file,) = data["files"]
    assert (status, file["records"], file["salvaged"]) == (1, 1, 2)
    assert "line 2, at byte" in file["damage"]
    copied = (tmp_path / "copy" / "metrics.jsonl").read_bytes()
    assert copied == b"".join((first, *others))
    assert [json.loads(line)["step"] for line in copied.splitlines()] == [0, 0, 1]


def test_a_repaired_copy_has_the_images_of_its_lines(tmp_path, json_of, sowlog_command):
    """Those behind the damage, too; a missing one is named, and one that no folder can have is damage."""
    writer = JsonLines(tmp_path / "run")
    image = np.zeros((2, 3, 3), np.uint8)
    for step in range(3):
        image[0] = step
        writer.write(Record(step, 1.0, images={"x": image}))
    writer.close()
    first, *others = writer.path.read_bytes().splitlines(keepends=True)
    outside = b'{"step":3,"time":1.0,"images":{"x":{"file":"../x.png","shape":[1,1,1]}}}\n'
    nowhere = b'{"step":4,"time":1.0,"images":{"x":{"shape":[1,1,1]}}}\n'
    odd = [outside.replace(b"../x.png", name) for name in (b"a\\u0000b", b"a\\ud800b", b"metrics.jsonl")]
    writer.path.write_bytes(b"".join((first, b"damage\n", outside, nowhere, *odd, *others)))
    lost = sorted((tmp_path / "run" / "metrics.images").iterdir())[1]
    lost.unlink()
    status, data = json_of("check", tmp_path / "run", "--repair", tmp_path / "copy")
    (file,) = data["files"]
    assert (status, file["salvaged"], file["images"], file["missing_images"]) == (1, 2, 2, [str(lost)])
    run = sowlog.read(tmp_path / "copy")
    assert run.damage == ()
    points = run.images["x"]
    assert points.steps.tolist() == [0, 1, 2]
    assert points.values[2].pixels()[0].tolist() == [[2] * 3] * 3
    status, output, _ = sowlog_command("check", tmp_path / "run", "--repair", tmp_path / "again")
    assert status == 1
    assert "2 records from behind the damage, with 2 images" in output
    assert f"without 1 image that cannot be read: {lost}" in output


@pytest.mark.timeout(60)
def test_a_file_that_is_no_image_is_not_read(tmp_path, json_of):
    """A FIFO would wait for its other end, and a sparse file fill the memory: each is missing in a copy."""
    writer = JsonLines(tmp_path / "run")
    for step in range(3):
        writer.write(Record(step, 1.0, images={"x": np.full((2, 3, 3), step, np.uint8)}))
    writer.close()
    fifo, sparse, _ = sorted((tmp_path / "run" / "metrics.images").iterdir())
    fifo.unlink()
    os.mkfifo(fifo)
    os.truncate(sparse, 1 << 40)
    values = sowlog.read(tmp_path / "run").images["x"].values
    for place, message in enumerate(("it is a FIFO", "it has 1099511627776 bytes, and an image")):
        with pytest.raises(OSError, match=message):
            values[place]
    _, data = json_of("check", tmp_path / "run", "--repair", tmp_path / "copy")
    (file,) = data["files"]
    assert (file["images"], file["missing_images"]) == (1, [str(fifo), str(sparse)])


def test_a_repaired_copy_overwrites_no_image(tmp_path, sowlog_command):
    """Of two files of lines that refer to one image there is one; another of its name is left as it is."""
    writer = JsonLines(tmp_path / "run")
    writer.write(Record(0, 1.0, images={"x": np.zeros((2, 3, 3), np.uint8)}))
    writer.close()
    (tmp_path / "run" / "second.jsonl").write_bytes(writer.path.read_bytes())
    assert sowlog_command("check", tmp_path / "run", "--repair", tmp_path / "copy")[0] == 0
    (image,) = (tmp_path / "run" / "metrics.images").iterdir()
    other = tmp_path / "new" / "metrics.images" / image.name
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another image")
    status, _, errors = sowlog_command("check", tmp_path / "run", "--repair", tmp_path / "new")
    assert (status, f"--repair: {other} exists; name a new folder." in errors) == (2, True)
    assert other.read_bytes() == b"another image"
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["metrics.images"]


def test_a_full_disk_leaves_no_part_of_a_copy(tmp_path, sowlog_command):
    """The message has the file and the cause; with room again, the same command succeeds."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    writer = JsonLines(tmp_path / "run")
    writer.write(Record(0, 1.0, images={"x": image}))
    writer.close()
    command = "check", tmp_path / "run", "--repair", tmp_path / "copy"
    for size in (20, 6000):
        with file_size_limit(size):
            status, _, errors = sowlog_command(*command)
        assert (status, f"--repair of {writer.path} to {tmp_path / 'copy'}" in errors) == (2, True)
        assert errors.endswith("File too large.\n")
        assert not [each for each in (tmp_path / "copy").rglob("*") if each.is_file()]
    assert sowlog_command(*command)[0] == 0
    np.testing.assert_array_equal(sowlog.read(tmp_path / "copy").images["x"].values[0].pixels(), image)
