"""Folded families of a run, from its configuration."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sowlog
from tests.support.tensorboard_reading import local_provider, shown_charts
from tests.train.running import CONFIGS, digits, points, run
from train.config import file as config_file
from train.config.file import ConfigError
from train.runs import tabs


def test_a_run_folds_the_families_of_its_configuration(tmp_path: Path) -> None:
    """All other points are those of a run without; the charts have the tags that there are."""
    run(digits("fold=[block_*/**]"), tmp_path / "folded")
    run(digits(), tmp_path / "single")
    folded, single = points(tmp_path / "folded"), points(tmp_path / "single")
    names = {f"block/dead_units/{name}" for name in ("p50", "p90", "max", "worst")}
    assert names <= set(folded)
    assert not {"block_0/dead_units", "block_1/dead_units"} & set(folded)
    assert {"block_0/dead_units", "eval/block_0/dead_units"} <= set(single)
    shared = set(folded) & set(single)
    assert {"loss", "eval/loss", "eval/block_0/dead_units"} <= shared
    assert all(folded[tag] == single[tag] for tag in shared)
    images = EventAccumulator(str(tmp_path / "folded")).Reload().Tags()["images"]
    assert "block/dead_units/layers" in images
    # TensorBoard would join the charts of both runs.
    charts = shown_charts(local_provider(tmp_path / "folded"), ".")
    assert charts["block", "block/dead_units"] == [
        f"block/dead_units/{name}" for name in ("p50", "p90", "max")
    ]
    assert charts["training and held-out", "block_0/dead_units"] == ["eval/block_0/dead_units"]
    assert ("block_*", "block_*/dead_units") not in charts


def test_folded_results_have_no_chart_of_their_own() -> None:
    """Neither in training nor held out; a chart without a point would be empty."""
    tags, results = ["loss", "rms/00", "rms/01", "x/0", "x/1"], ["rms/00", "rms/01"]
    charts = tabs.charts(tags, results, fold=["rms/*", "eval/rms/00"])
    both = charts["training and held-out"]
    assert list(both) == ["loss", "rms/00", "rms/01"]
    assert [each.pattern for each in both["rms/00"] if not isinstance(each, str)] == ["eval/rms/00"]
    assert list(charts["rms"]) == ["rms"]
    assert list(charts["x"]) == ["x/*"]
    assert list(tabs.charts(tags, results, fold=["**"])["training and held-out"]) == ["loss"]


def test_fold_is_read_back_and_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    """It looks at the run, and does not change it."""
    config = digits("fold=[block_*/**, x]", "heat_map_every=3", "tag_budget=null")
    file = tmp_path / "config.yaml"
    file.write_text(config_file.dump(config))
    assert config_file.load(file) == config
    run(digits("steps=2"), tmp_path / "run")
    settings = ("fold=['**']", "heat_map_every=2", "tag_budget=1")
    with pytest.warns(sowlog.TagWarning, match="more than tag_budget=1:"):
        outcome = run(digits("steps=7", *settings), tmp_path / "run")
    assert outcome.step == 7
    assert "block/dead_units/max" in points(tmp_path / "run")
    images = EventAccumulator(str(tmp_path / "run")).Reload().Images("block/dead_units/layers")
    assert [image.step for image in images] == [3, 5, 6]


def test_a_glob_with_an_empty_part_is_an_error() -> None:
    """With its place in the list."""
    with pytest.raises(ConfigError, match=r"fold\.1: must be a tag or a glob of tags.* got \"a//b\""):
        config_file.load(CONFIGS / "digits.yaml", ["fold=[a, a//b]"])
