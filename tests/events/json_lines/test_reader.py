"""Runs of JSON lines, read as runs of event files are."""

import functools
import json
import os
import subprocess
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sowlog
from sowlog._events.json_lines import reader
from sowlog.writers import HParams, JsonLines, Record, TensorBoard
from tests.support.strict_python import STRICT_PYTHON

TAGS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6).map(
    lambda tag: f"t/{tag}"
)
NUMBERS = st.floats(width=32)
SETTINGS = st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
CURVE = np.linspace(0, 1, 18, dtype=np.float32).reshape(6, 3)


@functools.cache
def histograms():
    """Return the states of two histograms."""
    return [sowlog.histogram.of(np.array(each, np.float32)) for each in ([0.5, -2.0, 3.0, 3.0], [1e-3])]


def record(step, values, **others):
    """Return a record of a dict of scalars."""
    return Record(step, 1.5 + step, tuple(values), np.array(list(values.values()), np.float32), **others)


def write(path, *records, **options):
    """Write records to a file, and close it."""
    writer = JsonLines(path, **options)
    for each in records:
        writer.write(each)
    writer.close()
    return writer.path


def contents(run):
    """Return all that a run has, as plain values; NaN as text, which is equal to itself."""
    return {
        "scalars": {
            tag: (steps.tolist(), list(map(repr, values.tolist())), run.wall_times[tag].tolist())
            for tag, (steps, values) in run.scalars.items()
            if len(steps)
        },
        "texts": {tag: list(points) for tag, points in run.texts.items()},
        "histograms": {
            tag: [
                (step, *(column.tolist() for column in (h.lefts, h.rights, h.counts)), h.min, h.max, h.sum)
                for step, h in points
            ]
            for tag, points in run.histograms.items()
        },
        "images": {
            tag: [(step, each.encoded, each.width, each.height) for step, each in points]
            for tag, points in run.images.items()
        },
        "pr_curves": {
            tag: [(step, value.dtype.name, value.tolist()) for step, value in points]
            for tag, points in run.pr_curves.items()
        },
        "hparams": {name: (type(value), value) for name, value in run.hparams.items()},
        "config": run.config,
        "damage": run.damage,
    }


STEP = st.fixed_dictionaries(
    {
        "scalars": st.dictionaries(TAGS, NUMBERS, max_size=4),
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        "histogram": st.none() | st.integers(0, 1),
        "has_image": st.booleans(),
    }
)


# The resumed part may not log a tag again, which is hidden then; TensorBoard's writer warns of it.
@pytest.mark.filterwarnings("ignore::sowlog.NonfiniteWarning", "ignore::sowlog.LossWarning")
@settings(max_examples=40)
@given(
    parts=st.lists(st.lists(STEP, max_size=5), min_size=1, max_size=2),
    hparams=st.none() | st.dictionaries(st.sampled_from(["a", "b.c", "b.d"]), SETTINGS, min_size=1),
)
def test_both_writers_have_the_same_run(parts, hparams, tmp_path_factory):
    """Scalars, texts, histograms, images and hyperparameters, of a run that is resumed at step 1."""
    folder = tmp_path_factory.mktemp("run")
    for number, steps in enumerate(parts):
        resume = {"resume_from": 1} if number else {}
        writers = [JsonLines(folder / "lines", **resume), TensorBoard(folder / "events", **resume)]
        with sowlog.Logger(folder, writers=writers) as log:
            if hparams is not None:
                log.hparams(hparams)
            for step, values in enumerate(steps, start=number):
                others = {} if values["histogram"] is None else {"h": histograms()[values["histogram"]]}
                log(step, {**{tag: np.float32(x) for tag, x in values["scalars"].items()}, **others})
                if values["text"] is not None:
                    log.text(step, "note", values["text"])
                if values["has_image"]:
                    log.image(step, "i", np.full((2, 3, 1), step, np.uint8))
    lines, events = (folder / name for name in ("lines", "events"))
    if not (lines / "metrics.jsonl").stat().st_size:
        return
    found, expected = contents(sowlog.read(lines)), contents(sowlog.read(events))
    assert found == expected
    assert contents(sowlog.read(lines / "metrics.jsonl")) == found


def test_a_precision_recall_curve_comes_back(tmp_path):
    """Float32 of shape [6, thresholds], as from the event file."""
    one = record(2, {}, pr_curves={"p": CURVE})
    write(tmp_path / "lines", one)
    events = TensorBoard(tmp_path / "events")
    events.write(one)
    events.close()
    found = contents(sowlog.read(tmp_path / "lines"))
    assert found == contents(sowlog.read(tmp_path / "events"))
    assert found["pr_curves"] == {"p": [(2, "float32", CURVE.tolist())]}


def test_superseded_steps_of_every_kind_are_dropped(tmp_path):
    """From the step of the note on, of the lines before it."""
    texts = [record(step, {"x": step}, texts={"n": str(step)}) for step in range(4)]
    write(tmp_path, *texts)
    path = write(tmp_path, record(2, {"y": 9}), resume_from=2)
    write(path, record(1, {"x": 7}), resume_from=1)
    run = sowlog.read(path)
    assert {tag: (s.tolist(), v.tolist()) for tag, (s, v) in run.scalars.items()} == {
        "x": ([0, 1], [0.0, 7.0]),
    }
    assert list(run.texts["n"]) == [(0, "0")]


def test_a_last_line_that_is_cut_is_left_out_at_any_byte(tmp_path):
    """Until the rest of it is there, which a refresh reads."""
    whole = write(tmp_path, record(0, {"x": 0.5}), record(1, {"x": 0.25}, texts={"n": "é"})).read_bytes()
    first = whole.index(b"\n") + 1
    path = tmp_path / "cut.jsonl"
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        run = sowlog.read(path)
        # All but its newline is a whole line.
        expected = [0] if end < len(whole) - 1 else [0, 1]
        assert (run.scalars["x"].steps.tolist(), run.damage) == (expected, ())
        with path.open("ab") as file:
            file.write(whole[end:] + whole[:first])
        assert run.refresh()
        assert contents(run) == contents(sowlog.read(path))
        assert run.scalars["x"].steps.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"\0" * 20 + b"\n", "is no JSON: "),
        (b'{"step":1,"time":1\n', "is no JSON: "),
        (b'{"step":1,"time":1,"scalars":{"x":NaN}}\n', "is no JSON: NaN is not in JSON"),
        (b'\xff{"step":1}\n', "is no JSON: 'utf-8' codec"),
        (b"\n", "is no JSON: "),
        (b"[1]\n", "is no JSON object"),
        (b'{"a":1}', 'has no integer of 64 bits as "step", but None'),
        (b"nothing", "is no JSON: "),
        (b'{"step":true,"time":1}\n', 'has no integer of 64 bits as "step", but True'),
        (b'{"step":9223372036854775808,"time":1}\n', 'has no integer of 64 bits as "step", but 922'),
        (b'{"step":1}\n', 'has no number as "time", but None'),
        (b'{"step":1,"time":1,"scalars":[2]}\n', r'has no object as "scalars", but \[2\]'),
        (b'{"step":1,"time":1,"scalars":{"x":"2"}}\n', "has scalars that are not numbers"),
        (
            b'{"step":1,"time":1,"scalars":{"x":null}}\n',
            "has null for the scalar 'x', and in \"nonfinite\" none",
        ),
        (b'{"step":1,"time":1,"hparams":{"a":1}}\n', 'has no "hparams" with "values"'),
        (b'{"step":1,"time":1,"run":"b"}\n', "is of run 'b' and the line before it is of run None"),
        (b'{"step":1,"time":1,"a":' + b"[" * 10**5 + b"\n", "is no JSON: "),
    ],
    ids=range(17),
)
def test_damage_names_the_line_and_ends_the_run(tmp_path, line, cause):
    """The lines before it are read."""
    path = write(tmp_path, record(0, {"x": 0.5}), record(1, {"x": 0.5}))
    start = path.stat().st_size
    whole = path.read_bytes()
    path.write_bytes(whole + line + (whole if line.endswith(b"\n") else b""))
    run = sowlog.read(tmp_path)
    assert run.scalars["x"].steps.tolist() == [0, 1]
    (damage,) = run.damage
    assert (damage.path, damage.offset, damage.record) == (path, start, 2)
    with pytest.raises(
        sowlog.CorruptEventFile, match=rf"line 3, at byte {start}, {cause}.*The 2 lines before it"
    ):
        raise damage


def test_a_line_of_any_length_is_bounded(tmp_path, monkeypatch):
    """A file without newlines is damage, and is not held."""
    monkeypatch.setattr(reader, "LONGEST_LINE", 100)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step":1,"time":1,"texts":{"n":"' + b"x" * 1000)
    (damage,) = sowlog.read(path).damage
    assert "line 1, at byte 0, is no JSON" in str(damage)


def test_a_sparse_file_of_10_gb_is_read_in_bounded_memory(tmp_path):
    """Its zeros are one line, of which the beginning is read."""
    path = write(tmp_path, record(0, {"x": 1}))
    size = path.stat().st_size
    os.truncate(path, 10 << 30)
    tracemalloc.start()
    run = sowlog.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
    assert run.scalars["x"].values.tolist() == [1.0]
    assert f"line 2, at byte {size}, is no JSON" in str(run.damage[0])


def test_a_line_of_many_pieces_is_read(tmp_path):
    """Longer than the first read."""
    text = "ö" * 100_000
    run = sowlog.read(write(tmp_path, record(0, {"x": 1}, texts={"n": text})))
    assert list(run.texts["n"]) == [(0, text)]


def test_a_value_that_the_writer_does_not_store_is_an_error_where_it_is_used(tmp_path):
    """With its tag and place."""
    path = tmp_path / "x.jsonl"
    lines = [
        {"step": 0, "time": 1, "histograms": {"h": {"edges": [1], "counts": [1]}, "k": {}}},
        {"step": 1, "time": 1, "images": {"i": {"file": "../secret.png", "shape": [1, 1, 1]}}},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = sowlog.read(path)
    with pytest.raises(ValueError, match=r"a value of h, at byte \d+ .* a histogram has edges of"):
        run.histograms["h"].values[0]
    with pytest.raises(
        ValueError, match=r"a value of k, .* lacks a value that the writer stores: KeyError\('edges'\)"
    ):
        run.histograms["k"].values[0]
    with pytest.raises(ValueError, match=r"a value of i, .* outside of the folder of the lines"):
        run.images["i"].values[0]


def test_other_writings_of_json_are_read(tmp_path):
    """Spaces, UTF-8, escapes, other orders of keys, keys of later versions, and integers."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        ' {"later": {"texts": {"no": 1}} , "texts" : { "ö\\n\\u00e9" : "ä" , "b" : "\\"}" } ,"time":2 , '
        '"step": 3 , "scalars": {"ö": 1}}\r\n'.encode()
    )
    run = sowlog.read(path)
    assert run.damage == ()
    assert {tag: list(points) for tag, points in run.texts.items()} == {"ö\né": [(3, "ä")], "b": [(3, '"}')]}
    assert run.scalars["ö"].values.tolist() == [1.0]


def test_an_event_file_beside_the_lines_is_the_run(tmp_path):
    """Also one that comes later."""
    write(tmp_path, record(0, {"x": 0.5}))
    run = sowlog.read(tmp_path)
    assert (list(run.scalars), list(sowlog.read_all(tmp_path))) == (["x"], ["."])
    with sowlog.Logger(tmp_path, writers=[TensorBoard(tmp_path)]) as log:
        log(0, {"y": 1.0})
    assert run.refresh()
    assert (list(run.scalars), list(sowlog.read(tmp_path).scalars)) == (["y"], ["y"])


def test_a_refresh_reads_new_lines_only(tmp_path, monkeypatch):
    """While the writer has the file open; without new lines nothing is opened."""
    parsed = []
    parse = reader.parse_line
    monkeypatch.setattr(reader, "parse_line", lambda data: parsed.append(data) or parse(data))
    writer = JsonLines(tmp_path)
    writer.write(record(0, {"x": 0.0}))
    run = sowlog.read(tmp_path)
    before = run.scalars["x"]
    for step in range(1, 5):
        parsed.clear()
        assert not run.refresh()
        assert parsed == []
        writer.write(record(step, {"x": step}, texts={"n": str(step)}))
        assert run.refresh()
        assert [json.loads(line)["step"] for line in parsed] == [step]
    writer.close()
    assert run.scalars["x"].steps.tolist() == [0, 1, 2, 3, 4]
    assert list(run.texts["n"])[-1] == (4, "4")
    assert before.steps.tolist() == [0]


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    """A shorter one, and one that is gone."""
    path = write(tmp_path, record(0, {"x": 0.0}), record(1, {"x": 0.0}))
    run = sowlog.read(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no event file \(\*tfevents\*\) and no metrics.jsonl"):
        run.refresh()
    write(tmp_path, record(5, {"y": 0.0}))
    assert run.refresh()
    assert list(run.scalars) == ["y"]


def test_a_run_is_read_while_it_is_written(tmp_path):
    """Each refresh has whole steps only, and in the end all of them."""
    writer = JsonLines(tmp_path)
    writer.write(record(0, {"x": 0, "y": 0}))

    def write_all():
        for step in range(1, 200):
            writer.write(record(step, {"x": step, "y": step}))
        writer.close()

    run = sowlog.read(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write_all)
        is_done = False
        while not is_done:
            is_done = written.done()
            run.refresh()
            steps = run.scalars["x"].steps
            assert run.damage == ()
            np.testing.assert_array_equal(steps, np.arange(len(steps)))
            np.testing.assert_array_equal(run.scalars["y"].values, steps)
    written.result()
    assert len(steps) == 200


def test_many_lines_are_read_in_linear_work(tmp_path, monkeypatch):
    """10^5 lines with tags that change from line to line, each parsed once."""
    lines = 100_000
    path = tmp_path / "x.jsonl"
    with path.open("w") as file:
        for step in range(lines):
            file.write(f'{{"step":{step},"time":1.0,"scalars":{{"x":{step}.0,"y/{step % 7}":1.0}}}}\n')
    parsed = 0
    parse = reader.parse_line

    def count(data):
        nonlocal parsed
        parsed += 1
        return parse(data)

    monkeypatch.setattr(reader, "parse_line", count)
    run = sowlog.read(path)
    assert parsed == lines
    np.testing.assert_array_equal(run.scalars["x"].values, np.arange(lines))
    assert sorted(len(run.scalars[f"y/{index}"].steps) for index in range(7)) == [14285] * 2 + [14286] * 5
    held = sum(part.steps.nbytes + part.values.nbytes for part in run.scalars.values())
    assert held == 2 * lines * 12


def test_hyperparameters_are_those_of_the_first_line_that_has_them(tmp_path):
    """As TensorBoard shows them."""
    first, second = (record(0, {}, hparams=HParams({"a.b": value}, ())) for value in (3, "x"))
    run = sowlog.read(write(tmp_path, first, second))
    assert (run.hparams, run.config, type(run.hparams["a.b"])) == ({"a.b": 3.0}, {"a": {"b": 3.0}}, float)


def test_reading_imports_no_jax(tmp_path):
    """The reader starts without it."""
    path = write(tmp_path, record(0, {"x": 0.5}, texts={"n": "a"}))
    script = (
        "import sys, sowlog; run = sowlog.read(sys.argv[1]); list(run.texts['n'].values); "
        "assert run.scalars['x'].values[0] == 0.5; assert 'jax' not in sys.modules"
    )
    subprocess.run([*STRICT_PYTHON, "-c", script, path], check=True)
