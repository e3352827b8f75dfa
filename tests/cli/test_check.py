"""`sowlog check`."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sowlog
from sowlog._events.framing import frame, pack_header, read_payloads
from sowlog._events.repairing import copy_whole_records
from tests.cli.writing import write_run
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event


def test_a_whole_run_has_status_0(tmp_path, sowlog_command, json_of):
    """With the number of its records."""
    path = write_run(tmp_path, loss=[1.0, 2.0])
    status, output, _ = sowlog_command("check", tmp_path)
    assert (status, output) == (0, f"{path}: 3 whole records, no damage\n")
    status, data = json_of("check", tmp_path)
    assert (status, data) == (
        0,
        {
            "files": [
                {
                    "file": str(path),
                    "bytes": path.stat().st_size,
                    "records": 3,
                    "damage": None,
                    "repaired": None,
                    "salvaged": None,
                    "images": None,
                    "missing_images": [],
                }
            ],
            "expectations": [],
            "ok": True,
        },
    )


def test_a_damaged_run_has_status_1_and_the_place(tmp_path, sowlog_command):
    """One line for each file; a FIFO among them is one as well."""
    write_run(tmp_path / "a", loss=[1.0])
    path = write_run(tmp_path / "b", loss=[1.0, 2.0, 3.0])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.mkfifo(tmp_path / "a" / "events.out.tfevents.2.fifo")
    status, output, _ = sowlog_command("check", tmp_path)
    lines = output.splitlines()
    assert (status, len(lines)) == (1, 3)
    assert "3 whole records" not in lines[0]
    assert "is skipped, since it cannot be read as a file: it is a FIFO" in lines[1]
    assert f"{path}: record 3 at byte" in lines[2]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("loss<0.5", False),
        ("loss<=0.5", True),
        ("loss == 0.5", True),
        ("loss!=0.5", False),
        ("loss>=1e-1", True),
        (" eval/accuracy > 0.97", False),
        ("bad<9", False),
        ("bad!=9", False),
    ],
)
def test_expectations_are_of_the_last_value(tmp_path, json_of, condition, holds):
    """NaN meets none, and one that is not met sets status 1."""
    write_run(tmp_path, loss=[1.0, 0.5], eval__accuracy=[0.99, 0.96], bad=[1.0, float("nan")])
    status, data = json_of("check", tmp_path, "--expect", condition)
    (judged,) = data["expectations"]
    assert (status, data["ok"], judged["holds"], judged["step"]) == (int(not holds), holds, holds, 1)


@pytest.mark.parametrize("condition", ["loss", "loss<", "<1", "loss<one", "loss=1", ""])
def test_a_condition_that_is_none_is_refused(tmp_path, sowlog_command, condition):
    """With an example of one."""
    write_run(tmp_path, loss=[1.0])
    status, _, errors = sowlog_command("check", tmp_path, "--expect", condition)
    assert (status, "is no condition: write it as in --expect 'eval/accuracy>0.97'." in errors) == (2, True)


def test_an_expected_tag_must_exist(tmp_path, sowlog_command):
    """A misspelled one would otherwise never fail."""
    write_run(tmp_path, loss=[1.0])
    status, _, errors = sowlog_command("check", tmp_path, "--expect", "los<1")
    assert (status, f"{tmp_path} has no tag los for --expect: did you mean loss?" in errors) == (2, True)


def test_repair_writes_a_run_without_damage(tmp_path, sowlog_command, json_of):
    """Records behind the damage are found by their checksums; the file itself stays as it is."""
    path = write_run(tmp_path / "run", loss=[float(step) for step in range(9)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert len(sowlog.read(tmp_path / "run").scalars["loss"].steps) < 8
    status, data = json_of("check", tmp_path / "run", "--repair", tmp_path / "new")
    (file,) = data["files"]
    assert (status, file["repaired"]) == (1, str(tmp_path / "new" / path.name))
    assert file["salvaged"] == 9 - file["records"]
    assert path.read_bytes() == content
    repaired = sowlog.read(tmp_path / "new")
    assert (repaired.damage, len(repaired.scalars["loss"].steps)) == ((), 8)
    assert [each.name for each in (tmp_path / "new").iterdir()] == [path.name]
    status, _, errors = sowlog_command("check", tmp_path / "run", "--repair", tmp_path / "new")
    assert (status, "exists; name a new folder" in errors) == (2, True)


def test_repair_keeps_the_folders_of_several_runs(tmp_path, sowlog_command):
    """Below the folder that they have in common."""
    for name in ("a/x", "b/x"):
        write_run(tmp_path / "runs" / name, loss=[1.0])
    status, _, _ = sowlog_command("check", tmp_path / "runs", "--repair", tmp_path / "new")
    assert status == 0
    assert list(sowlog.read_all(tmp_path / "new")) == ["a/x", "b/x"]


@given(data=st.data())
def test_a_copy_has_every_whole_record(data, tmp_path_factory):
    """With bytes of any kind between the records, changed bits, and a torn end."""
    folder = tmp_path_factory.mktemp("copy")
    payloads = [event(step, shapes.plain("x", step)).SerializeToString() for step in range(6)]
    rubbish = st.binary(max_size=40) | st.integers(0, 60).map(bytes) | st.just(pack_header(10**12))
    content, kept = b"", []
    for payload in payloads:
        content += data.draw(rubbish)
        record = bytearray(frame(payload))
        if data.draw(st.booleans()):
            record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            kept.append(payload)
        content += record
    path = folder / "events.out.tfevents.1.host"
    path.write_bytes(content + data.draw(rubbish))
    copied = copy_whole_records(path, folder / "copy" / path.name)
    assert list(read_payloads(folder / "copy" / path.name)) == kept
    assert copied.records == len(kept)


def test_a_hole_of_10_gb_is_passed_over(tmp_path):
    """The record behind it is found."""
    payloads = [one.SerializeToString() for one in (VERSION, event(1, shapes.plain("x", 1.0)))]
    path = tmp_path / "events.out.tfevents.1.host"
    with path.open("wb") as file:
        file.write(frame(payloads[0]))
        file.seek(10 << 30)
        file.write(frame(payloads[1]))
    copied = copy_whole_records(path, tmp_path / "copy" / path.name)
    assert (copied.records, copied.behind) == (2, 1)
    assert list(read_payloads(tmp_path / "copy" / path.name)) == payloads
