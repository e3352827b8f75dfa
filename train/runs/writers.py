"""The writers of a run, from its configuration."""

import contextlib
import importlib.util
from collections.abc import Generator, Sequence
from pathlib import Path

from sowlog.writers import (
    Csv,
    Every,
    JsonLines,
    Mlflow,
    OpenTelemetry,
    Parquet,
    Prometheus,
    Spooled,
    TensorBoard,
    Wandb,
    Writer,
)
from train.config.errors import ConfigError
from train.config.writers import (
    CsvOptions,
    JsonLinesOptions,
    MlflowOptions,
    OpenTelemetryOptions,
    ParquetOptions,
    PrometheusOptions,
    TensorBoardOptions,
    WandbOptions,
    WriterOptions,
)

# A port in use or a missing package is found before a file is made.
_ORDER = (
    PrometheusOptions,
    WandbOptions,
    MlflowOptions,
    OpenTelemetryOptions,
    ParquetOptions,
    CsvOptions,
    JsonLinesOptions,
    TensorBoardOptions,
)
_Service = WandbOptions | MlflowOptions | OpenTelemetryOptions
# Packages of constructors that make a file or a connection; those of services check theirs themselves.
_PACKAGES = {"parquet": ("pyarrow", "arrow"), "prometheus": ("prometheus_client", "prometheus")}


def check(options: Sequence[WriterOptions], folder: Path) -> None:
    """Check that the services of a run can be used, as far as no connection and no file is needed.

    Raises:
        ConfigError: A package or a login is missing.
    """
    for index, each in enumerate(options):
        package, extra = _PACKAGES.get(each.name, ("", ""))
        if package and importlib.util.find_spec(package) is None:
            message = f"needs {package}, which is not installed: pip install 'sowlog[{extra}]'."
            raise ConfigError([f"writers.{index}: {message}"])
        if isinstance(each, _Service):
            with _explained(index, each):
                _service(each, folder, None)


def build(options: Sequence[WriterOptions], folder: Path, resumed: int | None) -> list[Writer]:
    """Return the writers of a run, in the order of the configuration.

    Args:
        options: the writers' options.
        folder: the run folder.
        resumed: the step from which the run goes on; None for a new one.

    Raises:
        ConfigError: A writer cannot be made; none is left open.
        OSError: The run folder cannot be written to.
    """
    built: dict[int, Writer] = {}
    with contextlib.ExitStack() as undo:
        for index in sorted(range(len(options)), key=lambda index: _ORDER.index(type(options[index]))):
            with _explained(index, options[index]):
                spool = folder / f"{options[index].name}{f'.{index}' * _is_second(options, index)}.spool"
                built[index] = _build(options[index], folder, spool, resumed)
            undo.callback(built[index].close)
        undo.pop_all()
    return [built[index] for index in range(len(options))]


def describe(options: Sequence[WriterOptions]) -> str:
    """Return the writers in a line, each with its settings."""
    texts: list[str] = []
    for each in options:
        settings = [f"{key} {value}" for key, value in each.model_dump(exclude={"name"}).items() if value]
        texts.append(f"{each.name} ({', '.join(settings)})" if settings else each.name)
    return f"writers: {', '.join(texts) or 'none'}"


def _is_second(options: Sequence[WriterOptions], index: int) -> bool:
    return any(other.name == options[index].name for other in options[:index])


def _build(options: WriterOptions, folder: Path, spool: Path, resumed: int | None) -> Writer:
    match options:
        case TensorBoardOptions():
            return TensorBoard(folder, resume_from=resumed)
        case JsonLinesOptions():
            return _every(options.every, JsonLines(folder, resume_from=resumed))
        case CsvOptions():
            return _every(options.every, Csv(folder, resume_from=resumed))
        case ParquetOptions():
            return _every(options.every, Parquet(folder, resume_from=resumed))
        case PrometheusOptions():
            return Prometheus(options.port)
        case _:
            return _every(options.every, Spooled(_service(options, folder, resumed), spool))


def _service(options: _Service, folder: Path, resumed: int | None) -> Writer:
    if isinstance(options, MlflowOptions):
        # A run of that name would be continued, so the default differs for each folder of a machine.
        run = options.run or str(folder.absolute())
        return Mlflow(options.tracking_uri, experiment=options.experiment, run=run)
    if isinstance(options, OpenTelemetryOptions):
        return OpenTelemetry(options.run or str(folder.absolute()), endpoint=options.endpoint)
    return Wandb(
        options.project,
        run=options.run or folder.absolute().name,
        folder=folder,
        mode=options.mode,
        entity=options.entity,
        resume_from=resumed,
    )


def _every(steps: int, writer: Writer) -> Writer:
    return writer if steps == 1 else Every(steps, writer)


@contextlib.contextmanager
def _explained(index: int, options: WriterOptions) -> Generator[None]:
    """Raise the error of a service as one of the configuration; of the run folder, it stays as it is."""
    try:
        yield
    except OSError as error:
        if not isinstance(options, PrometheusOptions):
            raise
        raise ConfigError([f"writers.{index}: {error.strerror}"]) from error
    except (ImportError, RuntimeError, ValueError) as error:
        raise ConfigError([f"writers.{index}: {error}"]) from error
