"""The table of TensorBoard's HParams tab, read by the plugin's own backend."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.tensorboard_reading import context, local_provider

with warnings.catch_warnings():
    # TensorBoard imports pkg_resources, which announces its own end; nothing of ours.
    warnings.simplefilter("ignore")
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

_ALL = 10**6
_STATUSES = ("unknown", "success", "failure", "running")


class Row(NamedTuple):
    """One run of the table."""

    hparams: dict[str, Any]
    metrics: dict[str, float]
    status: str


class Table(NamedTuple):
    """The table, its columns as they are announced."""

    hparams: list[str]
    metrics: list[str]
    rows: dict[str, Row]


def hparams_table(logdir: Path) -> Table:
    """Return the table of a folder of runs, as TensorBoard's Python reader loads it."""
    return provided_table(local_provider(logdir))


def provided_table(provider: Any) -> Table:
    """Return the table of a data provider's runs."""
    backend = backend_context.Context(TBContext(data_provider=provider))
    here = context.RequestContext()
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=range(4), slice_size=_ALL)
    experiment = get_experiment.Handler(here, backend, "", api_pb2.GetExperimentRequest()).run()
    groups = list_session_groups.Handler(here, backend, "", request).run().session_groups
    return Table(
        [info.name for info in experiment.hparam_infos],
        [info.name.tag for info in experiment.metric_infos],
        {group.name: _row(group) for group in groups},
    )


def _row(group: Any) -> Row:
    hparams = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
    (session,) = group.sessions
    metrics = {metric.name.tag: metric.value for metric in session.metric_values}
    return Row(hparams, metrics, _STATUSES[session.status])
