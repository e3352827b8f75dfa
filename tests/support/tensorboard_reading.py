"""Event files read by TensorBoard's own readers, in Python and in Rust."""

import contextlib
import io
import json
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import PIL.Image

from tests.support.waiting import wait_until

with warnings.catch_warnings():
    # TensorBoard imports pkg_resources, which announces its own end; nothing of ours.
    warnings.simplefilter("ignore")
    from tbparse import SummaryReader
    from tensorboard import context
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.data.grpc_provider import GrpcDataProvider, make_stub
    from tensorboard.data.provider import RunTagFilter
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
    from tensorboard.plugins.pr_curve.pr_curves_plugin import PrCurvesPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
    from tensorboard.plugins.text.text_plugin import TextPlugin
    from tensorboard.util import tensor_util
    from tensorboard_data_server import server_binary

_ALL = 10**9


class Series(NamedTuple):
    """One tag as TensorBoard shows it."""

    steps: list[int]
    values: list[float]
    wall_times: list[float]


def tensorboard_scalars(path: Path) -> dict[str, Series]:
    """Return every scalar series of a run folder, unsampled."""
    reader = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return {tag: _series(reader.Scalars(tag)) for tag in reader.Tags()["scalars"]}


def tensorboard_points(path: Path) -> dict[tuple[str, str], list[tuple[int, object]]]:
    """Return the steps and values of every point of a run folder, by kind and tag, unsampled."""
    fields = {"scalars": "value", "histograms": "histogram_value", "tensors": "tensor_proto"}
    reader = EventAccumulator(str(path), size_guidance=dict.fromkeys(fields, 0))
    reader.Reload()
    read = {"scalars": reader.Scalars, "histograms": reader.Histograms, "tensors": reader.Tensors}
    return {
        (kind, tag): [(event.step, getattr(event, field)) for event in read[kind](tag)]
        for kind, field in fields.items()
        for tag in reader.Tags()[kind]
    }


def plugin_tensors(path: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Return steps and values of a run by tag, all kinds migrated to tensors as for TensorBoard's tabs."""
    guidance = {plugin_event_accumulator.TENSORS: 0}
    reader = plugin_event_accumulator.EventAccumulator(str(path), size_guidance=guidance)
    reader.Reload()
    return {
        tag: [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in reader.Tensors(tag)]
        for tag in reader.Tags()[plugin_event_accumulator.TENSORS]
    }


def tbparse_steps(path: Path, tag: str) -> dict[str, list[int]]:
    """Return the steps of a scalar tag by run, of a folder of runs, as tbparse reads them."""
    with warnings.catch_warnings():
        # It sorts its frames in a way that pandas means to take away.
        warnings.simplefilter("ignore", DeprecationWarning)
        points = SummaryReader(str(path), event_types={"scalars"}, extra_columns={"dir_name"}).scalars
    of_tag = points[points["tag"] == tag]
    return {run: rows["step"].tolist() for run, rows in of_tag.groupby("dir_name")}


def tensorboard_images(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """Return the pixels of every image of a run by tag and step, as TensorBoard reads them."""
    reader = EventAccumulator(str(path), size_guidance={"images": 0})
    reader.Reload()
    read: dict[tuple[str, int], np.ndarray] = {}
    for tag in reader.Tags()["images"]:
        for event in reader.Images(tag):
            pixels = np.asarray(PIL.Image.open(io.BytesIO(event.encoded_image_string)))
            assert (event.height, event.width) == pixels.shape[:2]
            read[tag, event.step] = pixels
    return read


def tensorboard_texts(path: Path) -> dict[tuple[str, int], str]:
    """Return the HTML of every text of a run by tag and step, as the Text tab has it."""
    return _texts(local_provider(path), ".")


def data_server_texts(server: GrpcDataProvider, run: str) -> dict[tuple[str, int], str]:
    """Return the same of the values that the server has loaded so far."""
    return _texts(server, run)


def _texts(provider: Any, run: str) -> dict[tuple[str, int], str]:
    plugin, here, read = TextPlugin(TBContext(data_provider=provider)), context.RequestContext(), {}
    for tag in plugin.index_impl(here, "").get(run, []):
        for entry in plugin.text_impl(here, run, tag, "", enable_markdown=True):
            assert (tag, entry["step"]) not in read
            read[tag, entry["step"]] = entry["text"]
    return read


def shown_pr_curves(provider: Any, run: str) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of each PR curve of a run by tag, as the tab's route sends them."""
    plugin, here = PrCurvesPlugin(TBContext(data_provider=provider)), context.RequestContext()
    tags = plugin.tags_impl(here, "").get(run, {})
    assert all(shown["displayName"] == tag for tag, shown in tags.items())
    return {tag: json.loads(json.dumps(plugin.pr_curves_impl(here, "", [run], tag)[run])) for tag in tags}


def shown_layout(provider: Any) -> dict[tuple[str, str], list[str]]:
    """Return the expressions of each chart by category and title, of all runs as the tab joins them."""
    layout = json.loads(_custom_scalars(provider).layout_impl(context.RequestContext(), "") or "{}")
    return {
        (category["title"], chart["title"]): chart["multiline"]["tag"]
        for category in layout.get("category", [])
        for chart in category["chart"]
    }


def shown_charts(provider: Any, run: str) -> dict[tuple[str, str], list[str]]:
    """Return the tags of a run that each chart shows, in the order of its expressions."""
    plugin, here = _custom_scalars(provider), context.RequestContext()
    answers = {
        place: [plugin.scalars_impl(here, run, expression, "") for expression in expressions]
        for place, expressions in shown_layout(provider).items()
    }
    assert all(answer["regex_valid"] for found in answers.values() for answer in found)
    return {
        place: [tag for answer in found for tag in answer["tag_to_events"]]
        for place, found in answers.items()
    }


def _custom_scalars(provider: Any) -> CustomScalarsPlugin:
    scalars = ScalarsPlugin(TBContext(data_provider=provider))
    return CustomScalarsPlugin(
        TBContext(data_provider=provider, plugin_name_to_instance={"scalars": scalars})
    )


def local_provider(path: Path) -> MultiplexerDataProvider:
    """Return a folder of runs as TensorBoard's Python reader loads it, unsampled."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0, "text": 0})
    multiplexer.AddRunsFromDirectory(str(path)).Reload()
    return MultiplexerDataProvider(multiplexer, str(path))


@contextlib.contextmanager
def data_server(logdir: Path) -> Iterator[GrpcDataProvider]:
    """Run the Rust data server on a folder of runs for a while."""
    with tempfile.TemporaryDirectory() as scratch:
        port_file = Path(scratch) / "port"
        options = ["--reload=1", "--samples-per-plugin=scalars=all", "--port=0", f"--port-file={port_file}"]
        with subprocess.Popen([server_binary(), f"--logdir={logdir}", *options]) as process:
            try:
                wait_until(lambda: port_file.exists() and port_file.read_text().endswith("\n"))
                address = f"localhost:{port_file.read_text().strip()}"
                with grpc.secure_channel(address, grpc.local_channel_credentials()) as channel:
                    yield GrpcDataProvider(address, make_stub(channel))
            finally:
                process.kill()


def data_server_series(server: GrpcDataProvider, tag: str) -> dict[str, Series]:
    """Return the series of a tag by run, as far as the server has loaded it."""
    found = server.read_scalars(
        context.RequestContext(),
        experiment_id="",
        plugin_name="scalars",
        downsample=_ALL,
        run_tag_filter=RunTagFilter(tags=[tag]),
    )
    return {run: _series(points[tag]) for run, points in found.items()}


def _series(events) -> Series:
    return Series([e.step for e in events], [e.value for e in events], [e.wall_time for e in events])


def as_series(run):
    """Return a run in the form of TensorBoard's reader."""
    return {
        tag: Series(steps.tolist(), values.tolist(), run.wall_times[tag].tolist())
        for tag, (steps, values) in run.scalars.items()
    }
