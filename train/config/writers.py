"""The options of each writer of a run's records."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from train.config.base import Count, Options, disagree

Name = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=0, lt=1 << 16)]


class TensorBoardOptions(Options):
    """Event files for TensorBoard, in the run folder (`sowlog.writers.TensorBoard`)."""

    name: Literal["tensorboard"]


class JsonLinesOptions(Options):
    """A line of JSON for each record, in metrics.jsonl of the run folder (`sowlog.writers.JsonLines`)."""

    name: Literal["json_lines"]
    every: Count = Field(1, description="Number of steps between records: each n-th step is written.")


class CsvOptions(Options):
    """A row for each scalar, in metrics.csv of the run folder (`sowlog.writers.Csv`)."""

    name: Literal["csv"]
    every: Count = Field(1, description="Number of steps between records: each n-th step is written.")


class ParquetOptions(Options):
    """The same rows in the folder metrics.parquet of the run folder (`sowlog.writers.Parquet`)."""

    name: Literal["parquet"]
    every: Count = Field(1, description="Number of steps between records: each n-th step is written.")


class WandbOptions(Options):
    """Weights & Biases (`sowlog.writers.Wandb`), behind a file of the run folder."""

    name: Literal["wandb"]
    project: Name = Field(description="Project.")
    entity: Name | None = Field(None, description="User or team; null: that of the login.")
    mode: Literal["online", "offline"] = Field(
        "online", description="Upload during the run, or by `wandb sync` later."
    )
    run: Name | None = Field(None, description="Name of the run; null: that of the run folder.")
    every: Count = Field(1, description="Number of steps between records: each n-th step is written.")


class MlflowOptions(Options):
    """A run of MLflow (`sowlog.writers.Mlflow`), behind a file of the run folder."""

    name: Literal["mlflow"]
    tracking_uri: Name = Field(description="Server, http://host:5000, or store, sqlite:///mlflow.db.")
    experiment: Name = Field(description="Experiment, which is created if it does not exist.")
    run: Name | None = Field(None, description="Name of the run; null: the path of the run folder.")
    every: Count = Field(1, description="Number of steps between records: each n-th step is written.")


class OpenTelemetryOptions(Options):
    """A collector of OpenTelemetry (`sowlog.writers.OpenTelemetry`), behind a file of the run folder."""

    name: Literal["opentelemetry"]
    endpoint: Name | None = Field(
        None, description="Collector, http://host:4318; null: that of OTEL_EXPORTER_OTLP_ENDPOINT."
    )
    run: Name | None = Field(None, description="Name of the run; null: the path of the run folder.")
    every: Count = Field(1, description="Number of steps between records: each n-th step is written.")


class PrometheusOptions(Options):
    """The last values for Prometheus, at http://127.0.0.1:PORT/metrics (`sowlog.writers.Prometheus`)."""

    name: Literal["prometheus"]
    port: Port = Field(9464, description="Port; 0: one that is free.")


def _check_files(options: "list[WriterOptions]") -> "list[WriterOptions]":
    """Check that no two writers have one file: those of the run folder, whose files have fixed names."""
    names = [each.name for each in options]
    for index, each in enumerate(options):
        if isinstance(each, _OF_FOLDER) and each.name in names[:index]:
            raise disagree(
                f"{index}.name",
                f'the list has "{each.name}" twice, whose file in the run folder is one: remove one',
            )
    return options


_OF_FOLDER = (TensorBoardOptions, JsonLinesOptions, CsvOptions, ParquetOptions)
WriterOptions = Annotated[
    TensorBoardOptions
    | JsonLinesOptions
    | CsvOptions
    | ParquetOptions
    | WandbOptions
    | MlflowOptions
    | OpenTelemetryOptions
    | PrometheusOptions,
    Field(discriminator="name"),
]
WriterList = Annotated[list[WriterOptions], AfterValidator(_check_files)]
"""The writers of a run, of which those of the run folder occur once."""
