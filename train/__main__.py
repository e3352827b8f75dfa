"""`python -m train [CONFIG.yaml] [dotted.key=value ...] [--workdir DIR]`, and `--help` for all of it.

Exit status: 0 when the run is finished, or what was asked for is told; 2 for a mistake in configuration, data
or run folder, before anything is trained, or for data that fails later; 3 when the objective or its gradient
became NaN or infinite; 128 and the signal's number, the run saved, after one that asks a process to leave:
130 after Ctrl-C, 143 after SIGTERM, and so on for SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU; 1 with a line when
something of the run could not be written, or with a traceback for all else. Of a sweep: 0 when every point is
finished, 1 when one failed, 2 and those of signals as of a run.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train import data
from train.config import fields, help, paths
from train.config import file as config_file
from train.config.errors import COMMAND_LINE, ConfigError, RunWarning, did_you_mean
from train.config.experiment import Config
from train.data.examples import DataError
from train.parallel import processes
from train.parallel.processes import Group
from train.runs import folder as run_folder
from train.runs import results
from train.runs.folder import RunFolder, SharedFolder
from train.runs.results import Results
from train.show import display, lines, tables, terminal
from train.sweep import command as sweep_command
from train.system import exits
from train.system.signals import Stop, StopRequestedError

if TYPE_CHECKING:  # Mistakes are told without JAX.
    from train.runs.outcome import Outcome

DEFAULT = "configs/moe_lm.yaml"

EXAMPLES = """
examples:
  python -m train                                   the default experiment
  python -m train configs/digits.yaml steps=500 optimizer.learning_rate=3e-4
  python -m train --workdir runs/mine               go on with the run that is there, or a new one
  python -m train configs/digits.yaml --print-config > mine.yaml
  python -m train configs/digits.yaml --sweep optimizer.learning_rate=1e-3,3e-3 --sweep seed=0..2 --jobs 2

A config may name others that it changes: "base: digits.yaml", or a list of files, relative to itself.
Another name in a section (optimizer.name=sgd) drops the fields of the old choice. A list is set whole,
key=[1,2], or by the item, key.0=1.

settings, as key=value or nested in the YAML file:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run(argv)
    except (ConfigError, DataError, run_folder.RunFolderError) as error:
        lines.mistakes(str(error))
        return 2
    except StopRequestedError as error:
        lines.mistakes(f"{error} before the first batch came: nothing was trained, and nothing is saved.")
        return _status(error.signal)
    except KeyboardInterrupt:
        return _status(signal.SIGINT)


def _run(argv: Sequence[str]) -> int:
    parser = _parser()
    options, file, overrides = _parse(parser, argv)
    if options.help or options.list:
        lines.text(_help(parser) if options.help else help.list_configs())
        return 0
    group = processes.group_of(options)
    if sweep_command.check(options):
        processes.check_alone(group, "--sweep")
        return sweep_command.run(options, file, overrides)
    config = config_file.load(file, overrides, is_to_train=True)
    hparams = _chosen(config, options.hparams)
    if options.print_config:
        lines.text(config_file.dump(config).rstrip())
        return 0
    workdir = None if options.workdir is None else _workdir(options.workdir)
    with lines.plain_warnings(RunWarning):
        dataset = data.load(config.data, needs=config.task.needs)
    if options.dry_run:
        return _dry_run(config, dataset)

    def take() -> RunFolder:
        return RunFolder(workdir or run_folder.default_path(file.stem), config)

    if group is None:
        with take() as folder, Stop() as stop:
            return _train(config, dataset, folder, stop, argv, hparams)
    return _train_together(group, config, dataset, take, argv, hparams)


def _help(parser: argparse.ArgumentParser) -> str:
    return parser.format_help() + sweep_command.HELP + EXAMPLES + help.list_settings()


def _train_together(
    group: Group,
    config: Config,
    dataset: data.Dataset,
    take: Callable[[], RunFolder],
    argv: Sequence[str],
    hparams: dict[str, Any],
) -> int:
    from train.parallel import joining  # noqa: PLC0415 - needs JAX, which is to join before anything else

    with joining.joined(group):
        joining.check_alike(config, dataset)
        with joining.shared_folder(take) as folder, Stop() as stop:
            return _train(config, dataset, folder, stop, argv, hparams)


def _train(
    config: Config,
    dataset: data.Dataset,
    folder: RunFolder | SharedFolder,
    stop: Stop,
    argv: Sequence[str],
    hparams: dict[str, Any],
) -> int:
    # JAX takes seconds to import, and nothing before this needs it.
    import sowlog  # noqa: PLC0415
    from train import loop  # noqa: PLC0415
    from train.parallel import runtime  # noqa: PLC0415

    runtime.set_up()
    lines.begun(folder.path, is_continued=folder.is_continued)
    if isinstance(folder, RunFolder) and folder.note:
        lines.warning(folder.note)
    # Around the screen, which puts what goes to standard error above its live line.
    with lines.plain_warnings(RunWarning, sowlog.LossWarning), terminal.screen(config.steps) as screen:
        view = display.Display(screen, config.steps)
        outcome = loop.train(config, dataset, folder, view, stop, argv=argv, hparams=hparams)
        view.ended()
    names_folder = any(argument.partition("=")[0] == "--workdir" for argument in argv)
    tables.finished(outcome, folder.path, stopped_by=outcome.stopped_by, names_folder=names_folder)
    failures = [*outcome.failures, *_write_results(config, folder, outcome)]
    if failures:
        lines.not_saved(failures, folder.path, names_folder=names_folder)
    if outcome.diverged:
        return 3
    if failures:
        return 1
    return _status(outcome.stopped_by) if outcome.stopped_by else 0


def _write_results(config: Config, folder: RunFolder | SharedFolder, outcome: "Outcome") -> list[str]:
    """Writes the results of a run that is finished; returns why it could not."""
    is_finished = not (outcome.diverged or outcome.failures or outcome.stopped_by)
    if is_finished and isinstance(folder, RunFolder):
        try:
            results.write(folder.path, _results(config, outcome))
        except OSError as error:
            return [f"the results are not written: {error}"]
    return []


def _results(config: Config, outcome: "Outcome") -> Results:
    return Results(
        steps=config.steps,
        step=outcome.step,
        ended_early=outcome.ended_early,
        better=config.task.better,
        held_out=results.finite({f"eval/{tag}": value for tag, value in outcome.evaluated.items()}),
    )


def _chosen(config: Config, keys: str | None) -> dict[str, Any]:
    """Gives the settings that `--hparams` names, each by its dotted key; of a section, all that it has."""
    if keys is None:
        return {}
    flat = config_file.flatten(config.model_dump())
    chosen: dict[str, Any] = {}
    for key in keys.split(","):
        found = {name: value for name, value in flat.items() if name == key or name.startswith(f"{key}.")}
        if not found and key not in fields.all_keys():
            near = did_you_mean(key, list(flat))
            raise ConfigError([f"{COMMAND_LINE}: --hparams: {key} is no setting of this run{near}"])
        chosen |= found
    return chosen


def _dry_run(config: Config, dataset: data.Dataset) -> int:
    from train import dry_run  # noqa: PLC0415
    from train.data import drawing  # noqa: PLC0415

    with drawing.interruptible(dataset, Stop()) as batches:
        lines.text(dry_run.describe(config, batches))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m train",
        description="Trains one experiment and logs every step to TensorBoard.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help=f"the experiment (default: {DEFAULT})"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="a setting, such as optimizer.name=sgd"
    )
    parser.add_argument("--workdir", metavar="DIR", help="the run folder (default: a new one under runs/)")
    parser.add_argument(
        "--hparams",
        metavar="KEYS",
        help="settings that TensorBoard's HParams tab shows of this run, such as seed,task.width",
    )
    for flag, what in _FLAGS.items():
        parser.add_argument(*flag.split("/"), action="store_true", help=what)
    processes.add_options(parser)
    sweep_command.add_options(parser)
    return parser


_FLAGS = {
    "-h/--help": "show this, and every setting",
    "--list": "list the configs with their purpose",
    "--print-config": "print the whole configuration as YAML, and train nothing",
    "--dry-run": "say how many parameters there are and what would be logged, without compiling",
}


def _parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, Path, list[str]]:
    """Splits the command line into options, the configuration file and the overrides."""
    options, unknown = parser.parse_known_intermixed_args(list(argv))
    overrides: list[str] = [*options.overrides, *unknown]  # What is unknown is told with all other mistakes.
    first: list[str] = [options.config] if options.config else []
    if first and "=" in first[0] and not Path(first[0]).exists():
        return options, _default(options), [*first, *overrides]
    return options, _find(first[0]) if first else _default(options), overrides


def _default(options: argparse.Namespace) -> Path:
    """Returns the configuration where none is given: that of the run to go on with, or the default one."""
    if options.workdir is not None and not options.sweep:
        own = _workdir(options.workdir) / run_folder.CONFIG
        if own.exists():
            return own
    return _find(DEFAULT)


def _workdir(given: str) -> Path:
    return paths.local(given, f"{COMMAND_LINE}: --workdir")


def _find(name: str) -> Path:
    """Finds a configuration from the working folder, or beside this package."""
    path = paths.local(name, COMMAND_LINE)
    beside = Path(__file__).parent.parent / path
    return beside if beside.exists() and not path.exists() else path


def _status(number: signal.Signals) -> int:
    return 128 + number


if __name__ == "__main__":
    exits.exit_with(main)
