"""The tabs of TensorBoard beside the points of a run: charts of several tags, configuration and versions."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import sowlog
from train.config import file as config_file
from train.config.experiment import Config
from train.runs.provenance import Start

Charts = dict[str, dict[str, list[str | re.Pattern[str]]]]
"""Tags by category and title, as `sowlog.Logger.layout` takes them."""

# A configuration is short, unless its free arguments hold data.
_LONGEST = 100_000
_NUMBER = re.compile(r"\d+(?=/|$)")


def configuration(config: Config) -> str:
    """Return the configuration as a block of code in Markdown."""
    text = config_file.dump(config)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}\n... (cut; the run folder has all of it)\n"
    # A fence longer than all backticks in the text.
    fence = "`" * max([3, *(1 + len(ticks) for ticks in re.findall("`+", text))])
    return f"{fence}\n{text.rstrip()}\n{fence}"


def versions(start: Start) -> dict[str, list[str | None]]:
    """Return the versions of libraries and code, and the devices, as columns of a table."""
    packages = {name: version or "of a checkout" for name, version in start["versions"].items()}
    devices = [f"{start['devices'].count(kind)} x {kind}" for kind in dict.fromkeys(start["devices"])]
    rows = {**packages, "commit": start["git_commit"], "devices": ", ".join(devices)}
    return {"name": [*rows], "version": [*rows.values()]}


def charts(tags: Sequence[str], results: Iterable[str], *, fold: Sequence[str] = ()) -> Charts:
    """Return the charts of a run.

    Args:
        tags: the scalars of a training step.
        results: tags of the task's results, which an evaluation has under eval/.
        fold: globs of the families that are folded, each of which is a chart of its quantiles.
    """
    found: Charts = defaultdict(dict)
    own = dict.fromkeys(("loss", *results))
    held_out = [f"eval/{tag}" for tag in own]
    folded = {**sowlog.families(tags, fold), **sowlog.families(held_out, fold)}
    hidden = {tag for members in folded.values() for tag in members}
    for tag in own:
        if shown := [re.compile(re.escape(each)) for each in (tag, f"eval/{tag}") if each not in hidden]:
            found["training and held-out"][tag] = list(shown)
    if any(tag.startswith("losses/") for tag in tags):
        found["losses"]["raw and weighted"] = ["losses/**"]
        found["losses"]["raw and weighted, held-out"] = ["eval/losses/**"]
    for name in folded:
        quantiles = [re.compile(re.escape(f"{name}/{each}")) for each in ("p50", "p90", "max")]
        found[name.partition("/")[0]][name] = list(quantiles)
    for (before, after), count in _families(tag for tag in tags if tag not in hidden).items():
        if count > 1:
            title = f"{before}*{after}"
            numbered = re.compile(rf"{re.escape(before)}\d+{re.escape(after)}")
            found[title.partition("/")[0] or title][title] = [numbered]
    found["optimizer"]["norms"] = ["norm/*"]
    found["optimizer"]["learning rate"] = ["learning_rate"]
    return dict(found)


def _families(tags: Iterable[str]) -> dict[tuple[str, str], int]:
    """Return the number of tags that are equal but for their last number, by the text around it.

    The layers of a model are such a family, or the experts of a layer.
    """
    families: dict[tuple[str, str], int] = defaultdict(int)
    for tag in tags:
        numbers = [] if tag.startswith("losses/") else list(_NUMBER.finditer(tag))
        if numbers:
            families[tag[: numbers[-1].start()], tag[numbers[-1].end() :]] += 1
    return families
