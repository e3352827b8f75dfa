"""Adapters of other libraries: metrics of clu and metrax as reducers, a logger as clu's metric writer."""

from sowlog.adapters.metric_writer import MetricWriter
from sowlog.adapters.metrics import MetricReducer, from_metric

__all__ = ["MetricReducer", "MetricWriter", "from_metric"]
