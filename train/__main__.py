"""`python -m train [CONFIG.yaml] [dotted.key=value ...] [--workdir DIR]`.

Exit status: 0 when the run is finished; 2 for a mistake in configuration, data or run folder, before
anything is trained; 130 after Ctrl-C and 143 after SIGTERM, the run saved; 1 with a traceback for all else.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from train import config_file, data, report, run_folder
from train.config import Config
from train.run_folder import RunFolder
from train.stopping import Stop

DEFAULT = "configs/moe_lm.yaml"

EPILOG = """examples:
  python -m train                                   the default experiment
  python -m train configs/digits.yaml steps=500 optimizer.learning_rate=3e-4
  python -m train --workdir runs/mine               a new run, or go on with the one that is there
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        file, overrides, workdir = _parse(argv)
        config = config_file.load(file, overrides)
        dataset = data.load(config.data)
        folder = RunFolder(Path(workdir) if workdir else run_folder.default_path(file.stem), config)
    except (config_file.ConfigError, data.DataError, run_folder.RunFolderError) as error:
        report.mistakes(str(error))
        return 2
    except KeyboardInterrupt:
        return _status(signal.SIGINT)
    with folder, Stop() as stop:
        return _train(config, dataset, folder, stop, argv)


def _train(config: Config, dataset: data.Dataset, folder: RunFolder, stop: Stop, argv: Sequence[str]) -> int:
    # JAX takes seconds to import, and nothing before this needs it.
    from train import loop, runtime  # noqa: PLC0415

    runtime.set_up()
    report.begun(folder.path, is_continued=folder.is_continued)
    with report.screen(config.steps) as screen:
        view = report.Display(screen, config.steps)
        outcome = loop.train(config, dataset, folder, view, stop, argv=argv)
    report.finished(outcome, folder.path, stopped_by=stop.signal)
    return _status(stop.signal) if stop.signal else 0


def _parse(argv: Sequence[str]) -> tuple[Path, list[str], str | None]:
    """Splits the command line into the configuration file, overrides and the run folder."""
    parser = argparse.ArgumentParser(
        "python -m train",
        description="Trains one experiment and logs every step to TensorBoard.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help=f"the experiment (default: {DEFAULT})"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="a setting, such as optimizer.name=sgd"
    )
    parser.add_argument("--workdir", metavar="DIR", help="the run folder (default: a new one under runs/)")
    options, unknown = parser.parse_known_intermixed_args(list(argv))
    overrides: list[str] = [*options.overrides, *unknown]  # What is unknown is told with all other mistakes.
    first: list[str] = [options.config] if options.config else []
    if first and "=" in first[0] and not Path(first[0]).exists():
        return _find(DEFAULT), [*first, *overrides], options.workdir
    return _find(first[0] if first else DEFAULT), overrides, options.workdir


def _find(name: str) -> Path:
    """Finds a configuration from the working folder, or beside this package."""
    beside = Path(__file__).parent.parent / name
    return beside if beside.exists() and not Path(name).exists() else Path(name)


def _status(number: signal.Signals) -> int:
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())
