import html
import json
from pathlib import Path

import jax
import pytest

import sowlog
from tests.support.hparams_reading import hparams_table
from tests.support.tensorboard_reading import (
    data_server,
    data_server_texts,
    local_provider,
    shown_charts,
    shown_layout,
    tensorboard_texts,
)
from tests.support.waiting import wait_until
from tests.train.running import digits, moe, run, run_until
from train.config import file as config_file
from train.runs import tabs


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two tasks, one of them stopped and resumed twice."""
    folder = tmp_path_factory.mktemp("runs")
    run_until(digits(), folder / "digits", 2)
    run_until(digits(), folder / "digits", 6)
    run(digits(), folder / "digits")
    run(moe("task.layers=2", "steps=2", "eval.every=2"), folder / "moe")
    return folder


def test_the_charts_of_a_run_have_the_tags_that_belong_together(runs: Path) -> None:
    """Training beside held-out data, losses raw beside weighted, the experts of a layer, layers."""
    charts = shown_charts(local_provider(runs), "moe")
    assert next(iter(charts)) == ("training and held-out", "loss")
    assert charts["training and held-out", "loss"] == ["loss", "eval/loss"]
    assert charts["training and held-out", "bits_per_byte"] == ["bits_per_byte", "eval/bits_per_byte"]
    balance = "losses/blocks/moe/load_balance"
    assert set(charts["losses", "raw and weighted"]) > {balance, f"{balance}/weighted", "losses/total"}
    assert not any(tag.startswith("eval/") for tag in charts["losses", "raw and weighted"])
    for layer in ("00", "01"):
        experts = [f"blocks/moe/load/{layer}/{expert:02}" for expert in range(4)]
        assert charts["blocks", f"blocks/moe/load/{layer}/*"] == experts
    entropies = ["blocks/attention/entropy/00", "blocks/attention/entropy/01"]
    assert charts["blocks", "blocks/attention/entropy/*"] == entropies
    assert charts["optimizer", "norms"] == ["norm/grads", "norm/params", "norm/updates"]


def test_charts_of_two_tasks_are_shown_side_by_side(runs: Path) -> None:
    """TensorBoard joins the layouts; the chart of the loss is one."""
    charts = shown_charts(local_provider(runs), "digits")
    assert charts["block_*", "block_*/dead_units"] == ["block_0/dead_units", "block_1/dead_units"]
    assert charts["training and held-out", "accuracy"] == ["accuracy", "eval/accuracy"]
    assert charts["blocks", "blocks/attention/entropy/*"] == []
    assert [title for _, title in charts].count("loss") == 1


def test_the_text_of_a_run_has_its_configuration_and_versions(runs: Path) -> None:
    """Once, as it began, although it was resumed twice."""
    assert len(json.loads((runs / "digits" / "meta.json").read_text())["starts"]) == 3
    texts = tensorboard_texts(runs / "digits")
    assert set(texts) == {("run/configuration", 0), ("run/versions", 0)}
    page = texts["run/configuration", 0].removeprefix("<pre><code>").removesuffix("</code></pre>")
    assert html.unescape(page).rstrip() == config_file.dump(digits()).rstrip()
    assert f"<td>{jax.__version__}</td>" in texts["run/versions", 0]
    assert "<td>1 x cpu</td>" in texts["run/versions", 0]


def test_the_data_server_shows_the_same_tabs(runs: Path) -> None:
    """The Rust server of `tensorboard` agrees with its Python reader."""
    texts, layout = tensorboard_texts(runs / "digits"), shown_layout(local_provider(runs))
    with data_server(runs) as server:
        wait_until(lambda: (data_server_texts(server, "digits"), shown_layout(server)) == (texts, layout))
        assert data_server_texts(server, "digits") == texts
        assert shown_layout(server) == layout


def test_runs_of_two_tasks_share_a_table_of_settings(runs: Path) -> None:
    """Each shows all its settings and results: neither blanks those of the other."""
    table = hparams_table(runs)
    assert set(table.rows) == {"digits", "moe"}
    for row, task, result in ((table.rows[name], *rest) for name, *rest in NAMED):
        assert set(row.hparams) <= set(table.hparams)
        assert {"seed", "optimizer.learning_rate", task} <= set(row.hparams)
        assert {"eval/loss", result} <= set(row.metrics)
        assert set(row.metrics) <= set(table.metrics)


NAMED = (("digits", "task.dropout", "eval/accuracy"), ("moe", "task.experts", "eval/bits_per_byte"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["load/00/00", "load/00/01", "load/01/00"], {"load": ["load/00/*"]}),
        (["Dense_0/rms", "Dense_1/rms", "Dense_0/max"], {"Dense_*": ["Dense_*/rms"]}),
        (["a/x/p50", "a/x/p99"], {"a": ["a/x/p*"]}),
        (["a/b2c/x", "a/b3c/x", "loss"], {}),
        (["losses/a/0", "losses/a/1"], {}),
    ],
)
def test_tags_equal_but_for_their_last_number_are_a_family(tags: list[str], expected: object) -> None:
    """A number ends a part of a tag; losses have charts of their own."""
    own = ("training and held-out", "losses", "optimizer")
    charts = tabs.charts(tags, ["loss"])
    assert {category: list(titles) for category, titles in charts.items() if category not in own} == expected


def test_tags_that_are_no_globs_have_charts() -> None:
    """A metric may have any name."""
    with sowlog.Logger("unused", writers=[]) as log:
        log.layout(tabs.charts(["a*b/1", "a*b/2", "/0", "/1", "x//y"], ["x//y", "a*b/1"]))


def test_a_configuration_may_hold_backticks_and_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fence is longer, and a text that no one would read is cut."""
    config = digits("data.name=tests.train.data.loaders:mended", "data.arguments.text='````'")
    text = tabs.configuration(config)
    assert text.startswith("`````\n")
    assert text.endswith("\n`````")
    monkeypatch.setattr(tabs, "_LONGEST", 20)
    assert tabs.configuration(config).splitlines()[-2] == "... (cut; the run folder has all of it)"


def test_versions_are_a_table_with_code_and_devices() -> None:
    """A checkout that is not installed has no version."""
    start = {"versions": {"sowlog": None, "jax": "1.0"}, "git_commit": None, "devices": ["a", "b", "a"]}
    assert tabs.versions(start) == {
        "name": ["sowlog", "jax", "commit", "devices"],
        "version": ["of a checkout", "1.0", None, "2 x a, 1 x b"],
    }
