"""`python -m train [CONFIG.yaml] [dotted.key=value ...] [--workdir DIR]`, and `--help` for all of it.

Exit status of a run:

    0    The run is finished, or the help or list is shown.
    1    A part of the run could not be written (one line), or any other error (a traceback).
    2    The configuration, the data or the run folder has an error, or data fails during the training.
    3    The objective or its gradient became NaN or infinite.
    4    An alert with `exit: true` ended the run, which is saved.
    128+ A signal ended the run, which is saved: 130 after Ctrl-C, 143 after SIGTERM, and 128 plus the number
         of SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU.

`--explain-nan` exits with 0 when it has found the origin of a NaN or infinity, and with 1 when it has not.

A sweep exits with 0 when every point is finished, 1 when one failed, and 2 or 128+ as a run.
"""

import functools
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train import arguments, data
from train.config import file as config_file
from train.config import help
from train.config.errors import ConfigError, RunWarning
from train.config.experiment import Config
from train.data.examples import DataError
from train.parallel import processes
from train.parallel.processes import Group
from train.runs import folder as run_folder
from train.runs import results
from train.runs.folder import RunFolder, SharedFolder
from train.show import lines, tables
from train.sweep import command as sweep_command
from train.sweep import coordinates
from train.system import exits
from train.system.signals import SignalFlag, StopRequestedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run(argv)
    except (ConfigError, DataError, run_folder.RunFolderError) as error:
        lines.error(str(error))
        return 2
    except StopRequestedError as error:
        lines.error(f"{error} before the first batch came: nothing was trained, and nothing is saved.")
        return _status(error.signal)
    except KeyboardInterrupt:
        return _status(signal.SIGINT)


def _run(argv: Sequence[str]) -> int:
    parser = arguments.make_parser()
    options, file, overrides = arguments.parse(parser, argv)
    if options.help or options.list:
        lines.text(arguments.help_text(parser, file, overrides) if options.help else help.list_configs())
        return 0
    group = processes.group_of(options)
    if options.explain_nan:
        processes.check_alone(group, "--explain-nan")
        return _explain_nan(arguments.replayed(options), config_file.load(file, overrides))
    is_sweep = sweep_command.check(options)
    if options.coordinates:
        return coordinates.run(options.coordinates, options.workdir)
    if is_sweep:
        processes.check_alone(group, "--sweep")
        return sweep_command.run(options, file, overrides)
    return _run_one(options, file, overrides, group, argv)


def _run_one(
    options: Namespace, file: Path, overrides: Sequence[str], group: Group | None, argv: Sequence[str]
) -> int:
    config = config_file.load(file, overrides, is_to_train=True)
    hparams = arguments.chosen(config, options.hparams)
    if options.print_config:
        lines.text(config_file.dump(config).rstrip())
        return 0
    workdir = None if options.workdir is None else arguments.workdir(options.workdir)
    with lines.plain_warnings(RunWarning):
        dataset = data.load(config.data, needs=config.task.needs)
    if options.dry_run:
        return _dry_run(config, dataset)

    def take() -> RunFolder:
        return RunFolder(workdir or run_folder.default_path(file.stem), config)

    if group is None:
        with take() as folder, SignalFlag() as stop:
            return _train(config, dataset, folder, stop, argv, hparams)
    return _train_together(group, config, dataset, take, argv, hparams)


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
        with joining.shared_folder(take) as folder, SignalFlag() as stop:
            return _train(config, dataset, folder, stop, argv, hparams)


def _train(
    config: Config,
    dataset: data.Dataset,
    folder: RunFolder | SharedFolder,
    stop: SignalFlag,
    argv: Sequence[str],
    hparams: dict[str, Any],
) -> int:
    # JAX takes seconds to import, and nothing before this needs it.
    import sowlog  # noqa: PLC0415
    from train import loop  # noqa: PLC0415
    from train.parallel import runtime  # noqa: PLC0415
    from train.runs import writers  # noqa: PLC0415
    from train.show import display  # noqa: PLC0415

    runtime.set_up()
    writers.check(config.writers, folder.path)
    lines.begun(folder.path, is_continued=folder.is_continued)
    if isinstance(folder, RunFolder) and folder.note:
        lines.warning(folder.note)
    show = functools.partial(display.writers, steps=config.steps)
    kinds = (sowlog.LossWarning, sowlog.NonfiniteWarning, sowlog.AlertWarning, sowlog.TagWarning)
    with lines.plain_warnings(RunWarning, *kinds):
        outcome = loop.train(config, dataset, folder, show, stop, argv=argv, hparams=hparams)
    names_folder = any(argument.partition("=")[0] == "--workdir" for argument in argv)
    tables.finished(outcome, folder.path, stopped_by=outcome.stopped_by, names_folder=names_folder)
    failures = [*outcome.failures]
    if isinstance(folder, RunFolder) and outcome.is_finished:
        failures += results.write(folder.path, results.of(config, outcome))
    if outcome.diverged:
        lines.explain_nan(folder.path)
    if failures:
        lines.not_saved(failures, folder.path, names_folder=names_folder)
    if outcome.diverged:
        return 3
    if failures:
        return 1
    if outcome.alert:
        return 4
    return _status(outcome.stopped_by) if outcome.stopped_by else 0


def _dry_run(config: Config, dataset: data.Dataset) -> int:
    from train import dry_run  # noqa: PLC0415
    from train.data import drawing  # noqa: PLC0415

    with drawing.interruptible(dataset, drawing.Alone(SignalFlag())) as batches:
        lines.text(dry_run.describe(config, batches))
    return 0


def _explain_nan(path: Path, config: Config) -> int:
    folder = run_folder.open_to_read(path, config)
    with lines.plain_warnings(RunWarning):
        dataset = data.load(config.data, needs=config.task.needs)
    # JAX takes seconds to import.
    import sowlog  # noqa: PLC0415
    from train import replay  # noqa: PLC0415
    from train.parallel import runtime  # noqa: PLC0415

    runtime.set_up()
    console = sowlog.writers.Console("*", steps=config.steps)
    with lines.plain_warnings(RunWarning), sowlog.Logger(folder.path, writers=[console]) as log:

        def failed(step: int) -> None:
            log.flush()
            lines.text(
                f"step {step} is not finite: its equations are evaluated one by one, for a minute or so"
            )

        explanation = replay.explain(config, dataset, folder, trained=log, failed=failed)
    lines.text(explanation.describe())
    return 0 if explanation.is_found else 1


def _status(number: signal.Signals) -> int:
    return 128 + number


if __name__ == "__main__":
    exits.exit_with(main)
