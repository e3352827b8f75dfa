import contextlib
import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import tty
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import pytest
import rich.console

import sowlog
from sowlog.writers import Console, HParams, Record
from sowlog.writers._console.progress import ASCII, UNICODE, Curve, Glyphs, Pace, Progress, shorten
from sowlog.writers._console.screen import Redirected
from sowlog.writers._console.view import lines_of

NAN, INF = float("nan"), float("inf")


def record(step: int, *, time: float | None = None, **values: float) -> Record:
    """Return a record, of a tenth of a second for each step unless a time is passed."""
    tags = tuple(tag.replace("__", "/") for tag in values)
    wall_time = step / 10 if time is None else time
    return Record(step, wall_time, tags=tags, values=np.array([*values.values()], np.float32))


def lines(records: Sequence[Record], *args, **kwargs) -> list[str]:
    """Return the plain lines of some records."""
    stream = io.StringIO()
    writer = Console(*args, file=stream, **kwargs)
    for each in records:
        writer.write(each)
    writer.flush()
    writer.close()
    return stream.getvalue().splitlines()


def view(
    records: Sequence[Record], globs=("**",), *, width=80, height=24, steps=None, glyphs: Glyphs = UNICODE
) -> list[str]:
    """Return the lines of a live view, as a terminal of that size has them."""
    progress = Progress(globs, steps=steps)
    for each in records:
        progress.note(each)
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=width, force_terminal=True, no_color=True)
    for line in lines_of(progress, glyphs, width=width, height=height):
        console.print(line, style="none")
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in stream.getvalue().splitlines()]


# Plain lines ------------------------------------------------------------------------------------------------


def test_a_line_has_step_values_rate_and_the_time_that_is_left():
    """Ten steps a second, of which the first record has no rate yet."""
    found = lines([record(0, loss=2.5), record(10, loss=0.5)], steps=100, interval=0)
    assert found == [
        "step 0/100  loss 2.500",
        "step 10/100  loss 0.5000  10.0 steps/s  0:09 left",
    ]


def test_without_a_length_there_is_no_time_left():
    """The rate alone."""
    found = lines([record(0, loss=1), record(10, loss=1)], interval=0)
    assert found[1] == "step 10  loss 1.000  10.0 steps/s"


def test_a_line_is_written_every_so_often_and_for_the_last_record():
    """Within the interval no record but the first and the last has a line."""
    found = lines([record(step, loss=step) for step in range(5)], interval=1000)
    assert [line.split()[1] for line in found] == ["0", "4"]


def test_a_record_has_one_line():
    """The last one is not repeated at the close."""
    assert len(lines([record(0, loss=1)])) == 1


def test_nothing_is_written_of_a_run_without_records():
    """Nor of one with hyperparameters, texts and charts alone."""
    of_run = [
        Record(0, 0.0, hparams=HParams({"seed": 0}, ())),
        Record(0, 0.0, texts={"note": "text"}),
        Record(0, 0.0, layout={}),
    ]
    assert lines([]) == lines(of_run) == []


def test_tags_are_in_the_order_of_the_globs():
    """A glob's own tags in that of the record; all others are left out."""
    values = record(0, b__x=1, loss=2, b__y__z=3, acc=4, b__w=5)
    assert lines([values], ["loss", "b/*"]) == ["step 0  loss 2.000  b/x 1.000  b/w 5.000"]
    assert lines([values], "b/**") == ["step 0  b/x 1.000  b/y/z 3.000  b/w 5.000"]


def test_the_default_choice_is_small():
    """Tags of one part, the total of the losses, and the loss of a group."""
    values = record(0, a__b__c=1, eval__loss=2, losses__total=3, losses__kl=4, loss=5, lr=6)
    assert lines([values]) == ["step 0  loss 5.000  lr 6.000  losses/total 3.000  eval/loss 2.000"]


def test_records_of_each_kind_have_their_own_interval():
    """An evaluation does not wait for the lines of training; all lines are in the order of the records."""
    training = [record(step, loss=step) for step in range(4)]
    records = [*training[:3], record(3, eval__loss=9), training[3], record(4, eval__loss=8)]
    assert [line.split("  ")[:2] for line in lines(records, interval=1000)] == [
        ["step 0", "loss 0.000"],
        ["step 2", "loss 2.000"],
        ["step 3", "eval/loss 9.000"],
        ["step 3", "loss 3.000"],
        ["step 4", "eval/loss 8.000"],
    ]


def test_a_record_that_is_always_shown_has_a_line_without_a_pace():
    """Each evaluation, however fast they come."""
    records = [record(step, eval__loss=step) for step in range(3)]
    found = lines(records, always="eval/**", interval=1000)
    assert found == [f"step {step}  eval/loss {step}.000" for step in range(3)]


def test_a_record_of_other_tags_has_no_line():
    """Once there is a chosen tag; a run without one has its steps."""
    assert [line[:6] for line in lines([record(0, loss=1), record(1, a__b=1)], interval=0)] == ["step 0"]
    assert [line[:6] for line in lines([record(0, a__b=1), record(1, a__b=1)], interval=0)] == [
        "step 0",
        "step 1",
    ]


@pytest.mark.parametrize(("value", "shown"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_a_value_that_is_not_finite_has_a_line_at_once(value, shown):
    """One line as it becomes so, and not one for each step that follows."""
    values = [1.0, 1.0, value, value, value]
    records = [record(step, loss=value) for step, value in enumerate(values)]
    found = [line.split("  ")[:2] for line in lines(records, interval=1000)]
    assert found == [["step 0", "loss 1.000"], ["step 2", f"loss {shown}"], ["step 4", f"loss {shown}"]]


def test_values_have_four_digits():
    """Also large, small and negative ones."""
    values = {"a": 1234.56, "b": 1e-5, "c": -0.125, "d": 1e10}
    assert lines([record(0, **values)]) == ["step 0  a 1235  b 1.000e-05  c -0.1250  d 1.000e+10"]


def test_control_characters_of_a_tag_are_escaped():
    """A terminal would obey them."""
    tag = "a\x1b[2J\n"
    values = Record(0, 0.0, tags=(tag,), values=np.ones(1, np.float32))
    assert lines([values], "*") == [r"step 0  a\x1b[2J\n 1.000"]


def test_an_encoding_that_lacks_a_character_is_no_error():
    """Of a tag; a curve has characters of ASCII then."""
    raw = io.BytesIO()
    writer = Console("*", file=io.TextIOWrapper(raw, "ascii", errors="backslashreplace"))
    writer.write(Record(0, 0.0, tags=("β",), values=np.ones(1, np.float32)))
    writer.close()
    assert raw.getvalue() == b"step 0  \\u03b2 1.000\n"
    assert "▁" not in "".join(view([record(0, a=1), record(1, a=2)], glyphs=ASCII))


def test_a_file_has_plain_lines(tmp_path):
    """Its own encoding, and no codes."""
    with (tmp_path / "log").open("w", encoding="latin-1") as file:
        writer = Console("*", file=file)
        writer.write(Record(0, 0.0, tags=("é", "β"), values=np.ones(2, np.float32)))
        writer.close()
    assert (tmp_path / "log").read_bytes() == b"step 0  \xe9 1.000  \\u03b2 1.000\n"


@pytest.mark.parametrize(("variable", "value"), [("CI", "1"), ("TERM", "dumb")])
def test_ci_has_plain_lines_on_a_terminal_too(variable, value, monkeypatch):
    """It would keep every frame of a view."""
    terminal = Terminal(monkeypatch)
    monkeypatch.setenv(variable, value)
    writer = Console(file=terminal.stdout)
    writer.write(record(0, loss=1))
    writer.close()
    assert terminal.read() == "step 0  loss 1.000\n"


# The pace ---------------------------------------------------------------------------------------------------


def paced(*marks: tuple[int, float]) -> str:
    pace = Pace()
    for step, time in marks:
        pace.note(step, time)
    return pace.describe(1000)


def test_the_first_step_which_compiles_is_no_part_of_the_pace():
    """An evaluation at the first step comes before it is compiled."""
    assert paced((0, 0), (0, 60), (10, 61)) == "10.0 steps/s  1:39 left"


def test_a_resumed_run_counts_its_own_steps():
    """Not those before it."""
    assert paced((900, 100), (910, 101)) == "10.0 steps/s  0:09 left"


def test_steps_that_count_anew_begin_a_new_pace():
    """And an earlier step in between changes nothing."""
    assert paced((0, 0), (100, 1), (50, 2), (200, 2)) == "100 steps/s  0:08 left"
    assert paced((0, 0), (100, 1), (0, 50), (10, 51)) == "10.0 steps/s  1:39 left"


def test_a_slow_step_has_its_seconds():
    """In place of 0.0 steps a second; hours are hours."""
    assert paced((0, 0), (10, 400)) == "40.0 s/step  11:00:00 left"


def test_an_interruption_is_forgotten():
    """An hour's pause after ten steps, once the run has gone on for as long."""
    marks = [(step, step + (3600 if step > 10 else 0)) for step in range(8000)]
    pace = Pace()
    for step, time in marks:
        pace.note(step, time)
    assert pace.rate() == pytest.approx(1)


def test_a_clock_that_stands_still_has_no_pace():
    """Or goes back."""
    assert paced((0, 5), (10, 5)) == paced((0, 5), (10, 4)) == ""


def test_a_run_beyond_its_length_has_no_time_left():
    """And no negative one."""
    assert paced((0, 0), (2000, 20)) == "100 steps/s  0:00 left"


# The view ---------------------------------------------------------------------------------------------------

RUN = [record(step, loss=8.0 - step, eval__accuracy=step) for step in range(8)]


def test_a_view_of_80_columns():
    """The step with its bar, and for each tag its last value and a curve."""
    assert view([*RUN, record(8, loss=0)], ["loss", "eval/*"], steps=16) == [
        "step 8/16  ━━━━━━━━━━━━────────────  10.0 steps/s  0:01 left",
        "loss                0.000  █▇▆▅▅▄▃▂▁",
        "eval/accuracy       7.000  ▁▂▃▄▅▆▇█                          step 7",
    ]


def test_a_view_of_40_columns():
    """No bar, no older steps, and long tags cut in the middle."""
    values = {"decoder__blocks__attention__entropy__03": 0.5, "decoder__blocks__attention__entropy__04": -1.0}
    assert view([record(0, **values), record(1, loss=1)], width=40, steps=16) == [
        "step 1/16  10.0 steps/s  0:02 left",
        "decoder/…ntropy/03      0.5000  ▄",
        "decoder/…ntropy/04      -1.000  ▄",
        "loss                     1.000  ▄",
    ]


@pytest.mark.parametrize("width", [*range(1, 60), 80, 81, 200, 1000])
def test_no_line_is_wider_than_the_terminal(width):
    """With wide characters in a tag, too."""
    wide = Record(9, 1.0, tags=("損失" * 20, "x" * 300), values=np.ones(2, np.float32))
    progress = Progress(["**"], steps=16)
    for each in [*RUN, wide]:
        progress.note(each)
    found = lines_of(progress, UNICODE, width=width, height=24)
    assert len(found) == 5
    assert max(line.cell_len for line in found) <= width


def test_a_low_terminal_has_the_first_tags():
    """And the number of the others, as a view higher than the terminal would stay there with each frame."""
    values = record(0, **{f"t{number}": number for number in range(20)})
    found = view([values], height=5)
    assert [line.split()[0] for line in found] == ["step", "t0", "t1", "t2", "…"]
    assert found[-1] == "… 17 more tags"
    assert len(view([values], height=21)) == 21


def test_a_value_that_is_not_finite_is_seen():
    """As the value, and in the curve as long as that covers it."""
    values = [1.0, 2.0, NAN, 3.0, INF]
    records = [record(step, loss=value) for step, value in enumerate(values)]
    assert view(records)[1] == "loss         inf  ▁▅!█!"
    assert view(records[:3])[1].endswith("▁█!")
    assert view(records[:4])[1].split()[1] == "3.000"
    assert view([record(0, loss=NAN)])[1].split() == ["loss", "nan", "!"]


def test_no_tag_is_markup(monkeypatch):
    """Brackets and colons are shown as they are."""
    terminal = Terminal(monkeypatch)
    writer = Console()
    writer.write(record(0, **{"[bold]:smile:": 1.0}))
    writer.close()
    assert "[bold]:smile:  " in terminal.read()


def test_a_curve_in_ascii():
    """From low to high."""
    records = [record(step, loss=step) for step in range(8)]
    assert view(records, glyphs=ASCII)[1].split()[-1] == "_.-~=+*#"


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 127, 128, 129, 1000, 12345])
def test_a_curve_covers_the_later_part_of_a_run(steps):
    """About its last quarter in 32 characters at least, and no more than the values there are."""
    curve = Curve()
    for step in range(steps):
        curve.add(NAN if step == steps - 1 - steps // 5 else float(step))
    drawn = curve.draw(32, UNICODE)
    assert len(drawn) == min(steps, 32)
    assert drawn.count("!") == 1


def test_a_curve_of_a_long_run_is_of_means():
    """Alternating values become flat; one NaN stays visible."""
    curve = Curve()
    for step in range(1000):
        curve.add(NAN if step == 900 else float(step % 2))
    drawn = curve.draw(32, UNICODE)
    assert drawn.count("!") == 1
    assert len(set(drawn) - {"!"}) == 1


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("loss", 4, "loss"), ("abcdefgh", 5, "ab…gh"), ("abcdefgh", 4, "a…gh"), ("abcdefgh", 1, "…")],
)
def test_a_long_tag_is_cut_in_the_middle(text, width, shown):
    """It keeps its end, the number of a layer."""
    assert shorten(text, [1] * len(text), width, "…") == shown


# A terminal -------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal as standard output and error, made in the test, as pytest replaces them after the set-up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.window, inside = pty.openpty()
        tty.setraw(inside)
        self.stdout, self.stderr = (os.fdopen(os.dup(inside), "w", buffering=1) for _ in range(2))
        os.close(inside)
        self._patch = monkeypatch
        for variable in ("CI", "TERM", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("LINES", "24")
        monkeypatch.setattr(sys, "stdout", self.stdout)
        monkeypatch.setattr(sys, "stderr", self.stderr)

    def end(self) -> None:
        """Close the streams, in whose buffers nothing is left."""
        self._patch.undo()
        self.stdout.close()
        self.stderr.close()

    def read(self) -> str:
        """Return the output so far, and close the terminal."""
        self.end()
        chunks = []
        with contextlib.suppress(OSError):  # EIO ends a terminal whose other side is closed.
            while chunk := os.read(self.window, 4096):
                chunks.append(chunk)
        os.close(self.window)
        return b"".join(chunks).decode()

    def screen(self) -> list[str]:
        """Return the lines that the terminal shows in the end."""
        return rendered(self.read())


def rendered(output: str) -> list[str]:
    """Return the lines that a terminal shows, which obeys the codes that the view has."""
    rows, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", output):
        if token == "\n":
            row, column = row + 1, 0
            rows += [""] * (row == len(rows))
        elif token == "\r":
            column = 0
        elif token == "\x1b[J":
            rows[row:] = [rows[row][:column]]
        elif token.endswith("A") and token.startswith("\x1b["):
            row -= int(token[2:-1])
        elif not token.startswith("\x1b["):
            rows[row] = rows[row][:column].ljust(column) + token + rows[row][column + len(token) :]
            column += len(token)
        else:
            assert token.endswith("m")
    return rows


def test_a_view_stays_at_the_close(monkeypatch):
    """One frame of it, above the cursor, however many were drawn."""
    terminal = Terminal(monkeypatch)
    writer = Console("*", steps=16, interval=0)
    for step in range(3):
        writer.write(record(step, loss=step))
    writer.close()
    assert terminal.screen() == [
        "step 2/16  ━━━─────────────────────  10.0 steps/s  0:01 left",
        "loss       2.000  ▁▅█",
        "",
    ]


def test_the_output_of_the_program_stays_above_the_view(monkeypatch):
    """Of print, of a handler that holds the stream, of a subprocess; lines that are always shown as well."""
    terminal = Terminal(monkeypatch)
    handler = logging.StreamHandler(sys.stderr)
    writer = Console(interval=0, always="eval/*")
    writer.write(record(0, loss=1))
    print("one\ntwo")
    writer.write(record(1, eval__loss=1))
    handler.emit(logging.makeLogRecord({"msg": "three"}))
    writer.write(record(2, loss=1))
    subprocess.run(["echo", "four"], stdout=terminal.stdout, check=True)
    writer.write(record(3, loss=1))
    print("five", file=sys.stderr)
    writer.close()
    print("six")
    found = [line.split("  ")[0].strip() for line in terminal.screen()]
    shown = ["one", "two", "step 1", "three", "four", "five", "step 3", "loss", "eval/loss", "six", ""]
    assert found == shown


def test_a_prompt_keeps_its_line(monkeypatch):
    """Text without an end of line is not erased by the next frame; a progress bar that returns is."""
    terminal = Terminal(monkeypatch)
    writer = Console(interval=0)
    writer.write(record(0, loss=1))
    print("continue? ", end="", flush=True)
    writer.write(record(1, loss=1))
    sys.stdout.write("\r 10 %")
    sys.stdout.flush()
    writer.write(record(2, loss=1))
    writer.close()
    assert [line[:10].strip() for line in terminal.screen()] == ["continue?", "step 2  10", "loss", ""]


def test_streams_are_restored_at_the_close(monkeypatch):
    """Also one that was replaced meanwhile, and set back after the close: that passes its text on."""
    terminal = Terminal(monkeypatch)
    writer = Console(interval=0)
    writer.write(record(0, loss=1))
    assert isinstance(sys.stdout, Redirected)
    assert (sys.stdout.encoding, sys.stdout.isatty()) == (terminal.stdout.encoding, True)
    sys.stderr.writelines(["a\n", "b\n"])
    with redirect_stdout(io.StringIO()) as elsewhere:
        print("elsewhere")
        writer.close()
        assert sys.stderr is terminal.stderr
    assert elsewhere.getvalue() == "elsewhere\n"
    print("last")
    assert [line.split("  ")[0] for line in terminal.screen()] == ["a", "b", "step 0", "loss", "last", ""]


def test_an_exception_of_the_program_is_below_the_last_view(monkeypatch):
    """The logger closes its writers on the way."""
    terminal = Terminal(monkeypatch)
    log = sowlog.Logger("x", writers=[Console(interval=0)])

    def train() -> None:
        with log:
            log(0, {"loss": 1.0})
            log.flush()
            assert isinstance(sys.stdout, Redirected)
            raise RuntimeError("fails")

    with pytest.raises(RuntimeError, match="fails"):
        train()
    assert (sys.stdout, sys.stderr) == (terminal.stdout, terminal.stderr)
    assert terminal.screen()[1:] == ["loss       1.000  ▄", ""]


def test_a_forked_child_prints_without_the_view(monkeypatch):
    """It needs no lock that another thread may have held at the fork."""
    terminal = Terminal(monkeypatch)
    writer = Console(interval=0)
    writer.write(record(0, loss=1))
    screen = sys.stdout.screen
    screen._pid = -1  # As in a child.
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with screen._lock:
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    print("child")
    release.set()
    holder.join()
    writer.close()
    assert "child" in terminal.read()


def test_a_terminal_that_is_closed_ends_nothing(monkeypatch):
    """Neither the view, nor lines that are always shown, nor the close."""
    terminal = Terminal(monkeypatch)
    writer = Console(interval=0, always="eval/*")
    writer.write(record(0, loss=1))
    os.close(terminal.window)
    writer.write(record(1, eval__loss=1))
    writer.write(record(2, loss=1))
    writer.close()
    assert sys.stdout is terminal.stdout
    terminal.end()


@pytest.mark.parametrize("kind", ["pipe", "disk"])
def test_lines_that_are_lost_end_nothing(kind):
    """To a pipe whose reader has left, and a full disk; nothing is left for the exit to write."""
    if kind == "pipe":
        reading, descriptor = os.pipe()
        os.close(reading)
    else:
        descriptor = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(descriptor, "w") as file, sowlog.Logger("x", writers=[Console(file=file)]) as log:
        for step in range(3):
            log(step, {"loss": 1.0})


def test_a_closed_file_ends_nothing(tmp_path):
    """As of a program that closes its log too early."""
    file = (tmp_path / "log").open("w")
    writer = Console(file=file, interval=0)
    file.close()
    writer.write(record(0, loss=1))
    writer.close()


def test_a_reader_that_pauses_holds_up_nothing(monkeypatch):
    """Lines that a full pipe does not take within a moment are dropped, and later ones arrive."""
    monkeypatch.setattr("sowlog.writers._console.screen._PATIENCE", 0.0)
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    with os.fdopen(writing, "w") as file:
        writer = Console(file=file, interval=0)
        writer.write(record(0, loss=1))
        with contextlib.suppress(BlockingIOError):
            while os.read(reading, 65536):
                pass
        writer.write(record(1, loss=1))
        writer.close()
    assert os.read(reading, 65536).decode() == "step 1  loss 1.000  10.0 steps/s\n"
    os.close(reading)


def test_a_live_view_without_rich_is_an_error_with_the_remedy(monkeypatch):
    """At the constructor; plain lines need no rich."""
    terminal = Terminal(monkeypatch)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sowlog.writers._console.view")
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sowlog\[console\]'") as error:
        Console()
    assert error.value.name.startswith("rich")
    assert terminal.read() == ""
    assert lines([record(0, loss=1)]) == ["step 0  loss 1.000"]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"tags": [3]}, TypeError, "tags of Console has 3, of type int: give globs of tags"),
        ({"tags": ["a//b"]}, ValueError, "tags of Console has 'a//b', with an empty part"),
        ({"always": ""}, ValueError, "always of Console has '', with an empty part"),
        ({"steps": 0}, ValueError, "steps is 0; the length of a run must be 1 step or more"),
        ({"steps": 1.5}, TypeError, "steps is 1.5, a float; it must be an integer"),
        ({"interval": -1}, ValueError, "interval is -1; it must be 0 seconds or more"),
        ({"interval": NAN}, ValueError, "interval is nan; it must be 0 seconds or more"),
        ({"interval": "1"}, TypeError, "interval is '1', a str; it must be in seconds"),
    ],
)
def test_wrong_arguments_are_errors(arguments, error, match):
    """They name the argument and its value."""
    with pytest.raises(error, match=match):
        Console(**arguments)
