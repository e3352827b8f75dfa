"""The tables that a notebook shows of runs, states and packed results."""

import html.parser
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

import sowlog
from sowlog._reduce.html import histogram_html

pytestmark = pytest.mark.usefixtures("light_compilation")


class Cells(html.parser.HTMLParser):
    """The texts of the cells by row, and the tags that are open at the end."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.rows[-1][-1] += data


def rows_of(shown):
    cells = Cells(shown._repr_html_())
    assert not cells.open
    return [row for row in cells.rows if row]


@pytest.fixture
def runs(tmp_path):
    """Two runs, the second with a tag that is markup."""
    for name, tag in (("first", "loss"), ("second", "<script>&")):
        with sowlog.Logger(tmp_path / name, on_nonfinite="ignore") as log:
            for step, value in enumerate((4.0, 1.0, np.nan, 2.0)):
                log(step, {tag: value, "shared": value})
            log.text(0, "note", "hello")
    return sowlog.read_all(tmp_path)


def test_a_run_shows_its_scalars_with_curves(runs):
    """A row has the last value, the extremes without NaN, the last step and a curve of the finite points."""
    run = runs["first"]
    assert rows_of(run)[0] == ["loss", "2", "1", "4", "3", ""]
    assert rows_of(run)[-1] == ["note", "1"]
    (points, *_) = re.findall(r'<polyline points="([^"]*)"', run._repr_html_())
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert places == [(2.0, 2.0), (47.3, 26.0), (138.0, 18.0)]


def test_text_of_a_run_is_escaped(runs):
    """A tag cannot add markup to the page."""
    assert rows_of(runs["second"])[0][0] == "<script>&"
    assert "<script" not in runs["second"]._repr_html_() + runs._repr_html_()


def test_runs_share_a_chart_of_each_tag(runs):
    """A tag has a curve for each run that has it, in the colour of the run."""
    assert rows_of(runs) == [
        ["■", "first", "2", "3"],
        ["■", "second", "2", "3"],
        ["<script>&", "1", ""],
        ["loss", "1", ""],
        ["shared", "2", ""],
    ]
    assert len(re.findall("<polyline", runs._repr_html_())) == 4


def test_a_table_is_bounded(tmp_path):
    """Of 1000 tags the first are shown, with the number of the others; a long tag is cut."""
    values = {f"{i:04}{'x' * 1000}": 1.0 for i in range(1000)}
    with sowlog.Logger(tmp_path, tag_budget=None) as log:
        for step in range(300):
            log(step, values)
    for shown in (sowlog.read(tmp_path), sowlog.read_all(tmp_path), sowlog.pack(values)):
        text = shown._repr_html_()
        assert "and 950 more" in text
        assert len(text) < 200_000


def test_a_bounded_table_begins_with_the_tags_of_the_fewest_parts(tmp_path):
    """The losses of a model with many layers are shown, not the first layers alone."""
    values = {"blocks": {f"{i:03}": {"rms": 1.0} for i in range(100)}, "loss": 2.0, "eval": {"loss": 3.0}}
    with sowlog.Logger(tmp_path) as log:
        log(0, values)
    for shown in (sowlog.read(tmp_path), sowlog.read_all(tmp_path), sowlog.pack(values)):
        tags = [row[0] for row in rows_of(shown)]
        assert tags.index("loss") < tags.index("eval/loss") < tags.index("blocks/000/rms")


def test_a_state_shows_its_results():
    """The results are by index and name, and absent ones say so."""
    assert rows_of(sowlog.mean.of([1.0, 2.0])) == [["", "1.5"]]
    kept = sowlog.max(axis=0).of([[1.0, -2.0], [0.5, 3.0]], weight=jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    assert rows_of(kept) == [["0", "1"], ["1", "nothing sown"]]
    several = sowlog.quantiles(percents=(50, 100)).of(jnp.arange(5.0))
    assert sorted(map(float, rows_of(several)[0][1:])) == pytest.approx([2.0, 4.0], rel=0.05)


def test_packed_results_show_by_tag_and_never_as_bits():
    """Absent results are left out, and a histogram has bars."""
    tree = {
        "loss": sowlog.mean.of([1.0, 2.0]),
        "absent": sowlog.mean.init_fn(),
        "layers": np.array([0.5, 0.25]),
        "h": sowlog.histogram.of([1.0, 2.0, 2.0]),
    }
    packed = sowlog.pack(tree)
    rows = {tag: value for tag, value, _ in rows_of(packed)}
    histogram = rows.pop("h")
    assert rows == {"layers/00": "0.5", "layers/01": "0.25", "loss": "1.5"}
    assert histogram == "HistogramValue(3 elements, min=1.0, max=2.0)"
    assert "<rect" in packed._repr_html_()
    assert rows_of(jax.device_get(packed)) == rows_of(packed)


class _Shown:
    """The HTML of an object, as the shell of a notebook would show it; None if it shows text alone."""

    def __init__(self, shell, value):
        data, _ = shell.display_formatter.format(value, include=["text/html"])
        self.text = data.get("text/html")

    def _repr_html_(self):
        return self.text


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """The shell of a notebook, in which the extension is loaded."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "sowlog")
    yield shell
    InteractiveShell.clear_instance()


def test_a_dict_of_states_shows_its_results(shell):
    """By tag, as a packed tree, which it may hold; unloaded, the extension leaves the text alone."""
    histogram = sowlog.histogram.of(jnp.arange(4.0))
    tree = {"a": {"x": sowlog.mean.of(0.5), "h": histogram}, "p": sowlog.pack({"y": 2.0}), "lr": 0.1}
    rows = [row for row in rows_of(_Shown(shell, tree)) if len(row) == 3]
    assert sorted(row[:2] for row in rows if row[0] != "a/h") == [["a/x", "0.5"], ["lr", "0.1"], ["p/y", "2"]]
    assert [row[0] for row in rows if row[1].startswith("HistogramValue")] == ["a/h"]
    assert rows_of(_Shown(shell, {"a": {"b": {"x": sowlog.mean.of(2.0)}}}))[-1][:2] == ["a/b/x", "2"]
    shell.run_line_magic("unload_ext", "sowlog")
    assert _Shown(shell, tree).text is None


def test_any_other_dict_shows_as_text(shell, capsys):
    """Without states, within itself, of states and an object that is no metric, and of traced states."""
    itself = {"a": 1}
    itself |= {"b": itself, "c": itself}
    others = [{}, {"a": 1}, {1: "x", "y": [2]}, itself, {"a": sowlog.mean.of(1.0), "b": object()}]
    assert [_Shown(shell, other).text for other in others] == [None] * len(others)

    @jax.jit
    def show(x):
        assert _Shown(shell, {"a": sowlog.mean.of(x)}).text is None
        return x

    show(1.0)
    assert capsys.readouterr().err == ""


class _Own(dict):
    """A dict with HTML of its own, as of a library of data sets."""

    def _repr_html_(self):
        return "<b>own</b>"


class _Unreadable(dict):
    def values(self):
        raise OSError("the file is gone")


def test_a_dict_with_html_of_its_own_keeps_it(shell, capsys):
    """A subclass, also with states; the formatter of the user, which is there again behind the extension."""
    state = {"x": sowlog.mean.of(2.0)}
    assert [_Shown(shell, _Own(tree)).text for tree in ({"a": 1}, state)] == ["<b>own</b>"] * 2
    assert _Shown(shell, _Unreadable(a=1)).text is None
    assert capsys.readouterr().err == ""
    shell.run_line_magic("unload_ext", "sowlog")
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(dict, lambda each: f"<i>{len(each)}</i>")
    shell.run_line_magic("load_ext", "sowlog")
    assert _Shown(shell, {"a": 1, "b": 2}).text == "<i>2</i>"
    assert rows_of(_Shown(shell, state))[-1][:2] == ["x", "2"]
    shell.run_line_magic("unload_ext", "sowlog")
    assert _Shown(shell, state).text == "<i>1</i>"
    shell.run_line_magic("load_ext", "sowlog")
    formatter.for_type(dict, lambda _: "<i>later</i>")
    shell.run_line_magic("unload_ext", "sowlog")
    assert _Shown(shell, state).text == "<i>later</i>"


def test_bars_of_a_histogram_have_equal_widths():
    """Uniform elements have bars of about one height, though bins are narrow near 0."""
    uniform = sowlog.histogram.of(np.linspace(-1.0, 3.0, 100_000)).compute()
    heights = [float(each) for each in re.findall(r'height="([0-9.]+)" fill', histogram_html(uniform).html)]
    assert len(heights) == 40
    assert min(heights) > 0.9 * max(heights)


def test_arrays_without_numbers_show_their_repr():
    """Traced, deleted and stacked arrays have no results to show."""
    shown = []

    def step(x):
        packed = sowlog.pack({"loss": x})
        shown.extend([sowlog.mean.of(x)._repr_html_(), packed._repr_html_()])
        return packed

    packed = jax.jit(step)(1.0)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), packed)
    packed.buffer.delete()
    shown += [packed._repr_html_(), stacked._repr_html_()]
    assert shown == ["<code>State(mean, traced)</code>", *["<code>Packed(1 metric: loss)</code>"] * 3]
