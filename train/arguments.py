"""The command line: its options, the configuration file that it names, and its help."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.config import fields, help, paths
from train.config import file as config_file
from train.config.errors import COMMAND_LINE, ConfigError, did_you_mean
from train.config.experiment import Config
from train.parallel import processes
from train.runs import folder as run_folder
from train.sweep import command as sweep_command

DEFAULT = "configs/moe_lm.yaml"


EXAMPLES = """
examples:
  python -m train                                   the default experiment
  python -m train configs/digits.yaml steps=500 optimizer.learning_rate=3e-4
  python -m train --workdir runs/mine               continue the run that is there, or begin one
  python -m train --explain-nan --workdir runs/mine   the origin of the NaN or infinity that ended a run
  python -m train --sweep task.width=64,128,256 watch.statistics=[rms] steps=10 --workdir runs/widths
  python -m train --coordinates task.width --workdir runs/widths   growth of activations with the width
  python -m train configs/digits.yaml --print-config > mine.yaml
  python -m train configs/digits.yaml --sweep optimizer.learning_rate=1e-3,3e-3 --sweep seed=0..2 --jobs 2
"""

CONFIGS = """\
A config may name others that it changes: "base: digits.yaml", or a list of files, relative to itself.
Another name in a section (optimizer.name=sgd) drops the fields of the old choice. A list is set whole,
key=[1,2], or by the item, key.0=1."""


def help_text(parser: argparse.ArgumentParser, file: Path, overrides: Sequence[str]) -> str:
    """Return the text of `--help`: options, examples and every setting."""
    parts = (
        parser.format_help(),
        *map(help.fill, sweep_command.HELP.split("\n\n")),
        EXAMPLES,
        help.fill(CONFIGS),
        "",
        "settings, as key=value or nested in the YAML file:",
        help.list_settings(config_file.task_name(file, overrides)),
    )
    return "\n".join(parts)


def chosen(config: Config, keys: str | None) -> dict[str, Any]:
    """Return the settings that `--hparams` names, each by its dotted key; of a section, all that it has.

    Without the option it is all settings: a run that lacks one would have an empty cell beside others.
    """
    flat = config_file.flatten(config.model_dump(mode="json"))
    if keys is None:
        return flat
    chosen: dict[str, Any] = {}
    for key in keys.split(","):
        found = {name: value for name, value in flat.items() if name == key or name.startswith(f"{key}.")}
        if not found and key not in fields.all_keys():
            near = did_you_mean(key, list(flat))
            raise ConfigError([f"{COMMAND_LINE}: --hparams: {key} is no setting of this run{near}"])
        chosen |= found
    return chosen


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        "python -m train",
        description="Train an experiment and log each step to TensorBoard.",
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
        help="settings that TensorBoard's HParams tab has of this run, as seed,task.width (default: all)",
    )
    for flag, text in _FLAGS.items():
        parser.add_argument(*flag.split("/"), action="store_true", help=text)
    processes.add_options(parser)
    sweep_command.add_options(parser)
    return parser


_FLAGS = {
    "-h/--help": "show this, and every setting",
    "--list": "list the configs with their purpose",
    "--print-config": "print the whole configuration as YAML, and train nothing",
    "--dry-run": "count the parameters and list every tag of a run, without compiling",
    "--explain-nan": "replay the run of --workdir from its last checkpoint, and print the origin of its "
    "first NaN or infinity; its folder is only read",
}


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, Path, list[str]]:
    """Split the command line into options, the configuration file and the overrides."""
    options, unknown = parser.parse_known_intermixed_args(list(argv))
    overrides: list[str] = [*options.overrides, *unknown]  # Unknown ones are reported with all other errors.
    first: list[str] = [options.config] if options.config else []
    if first and "=" in first[0] and not Path(first[0]).exists():
        return options, _default(options), [*first, *overrides]
    return options, _find(first[0]) if first else _default(options), overrides


def _default(options: argparse.Namespace) -> Path:
    """Return the configuration without a CONFIG.yaml: that of the run to continue, or the default one."""
    if options.workdir is not None and not options.sweep:
        own = workdir(options.workdir) / run_folder.CONFIG
        if own.exists():
            return own
    return _find(DEFAULT)


def replayed(options: argparse.Namespace) -> Path:
    """Return the run folder that `--explain-nan` replays.

    Raises:
        ConfigError: The folder is not named, or another option contradicts a replay.
    """
    flags = {
        "--sweep": options.sweep,
        "--coordinates": options.coordinates,
        "--dry-run": options.dry_run,
        "--hparams": options.hparams,
    }
    wrong = [f"--explain-nan: replays one run as it was; leave out {flag}" for flag in flags if flags[flag]]
    given: str | None = options.workdir
    if given is None:
        wrong.append("--explain-nan: replays the run of a folder; add --workdir DIR")
    if given is None or wrong:
        raise ConfigError([f"{COMMAND_LINE}: {line}" for line in wrong])
    return workdir(given)


def workdir(given: str) -> Path:
    """Return the folder that `--workdir` names."""
    return paths.local(given, f"{COMMAND_LINE}: --workdir")


def _find(name: str) -> Path:
    """Find a configuration from the working folder, or beside this package."""
    path = paths.local(name, COMMAND_LINE)
    beside = Path(__file__).parent.parent / path
    return beside if beside.exists() and not path.exists() else path
