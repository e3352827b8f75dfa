"""The processes of one run: their options on the command line, checked before JAX is imported."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from train.config.errors import COMMAND_LINE, ConfigError

_FLAGS = {
    "--coordinator": ("HOST:PORT", "the address of process 0 of several, the same for all of them"),
    "--process-id": ("I", "the number of this process, from 0"),
    "--num-processes": ("N", "the number of processes"),
}


@dataclass(frozen=True)
class Group:
    """The processes that train one run, and the number of this one.

    Attributes:
        coordinator: host and port of process 0; None, as all that follows, if the cluster knows.
        process_id: number of this process.
        count: the number of processes.
    """

    coordinator: str | None = None
    process_id: int | None = None
    count: int | None = None


def add_options(parser: ArgumentParser) -> None:
    """Add the options that `group_of` reads."""
    for flag, (value, text) in _FLAGS.items():
        parser.add_argument(flag, metavar=value, help=text)
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="several processes, as the cluster has started them (Slurm, Open MPI, Kubernetes, TPU pods)",
    )


def group_of(options: Namespace) -> Group | None:
    """Return the processes that the options name; None if this one is alone.

    Raises:
        ConfigError: The options contradict each other.
    """
    given = {flag: getattr(options, flag.removeprefix("--").replace("-", "_")) for flag in _FLAGS}
    missing = [flag for flag, value in given.items() if value is None]
    if options.cluster and len(missing) < len(given):
        raise _config_error(
            f"--cluster finds {_listed(set(given) - set(missing))} by itself; leave out one of the two"
        )
    if options.cluster:
        return Group()
    if len(missing) == len(given):
        return None
    if missing:
        raise _config_error(f"{_listed(given)} belong together; add {_listed(missing)}")
    return _group(*given.values())


def check_alone(group: Group | None, flag: str) -> None:
    """Raise an error if there are several processes, for a flag that is of one.

    Raises:
        ConfigError: There are several processes; the message names the flag.
    """
    if group is not None:
        raise _config_error(
            f"{flag} is for one process; leave out --coordinator, --process-id, --num-processes and --cluster"
        )


def _group(coordinator: str, process_id: str, count: str) -> Group:
    host, _, port = coordinator.rpartition(":")
    if not host or not _is_number(port) or not 0 < int(port) < 2**16:
        raise _config_error(f'--coordinator: must be HOST:PORT, such as localhost:7700, got "{coordinator}"')
    if not _is_number(count) or int(count) < 1:
        raise _config_error(f'--num-processes: must be a whole number >= 1, got "{count}"')
    if not _is_number(process_id) or int(process_id) >= int(count):
        raise _config_error(
            f'--process-id: of {count} processes, must be 0 to {int(count) - 1}, got "{process_id}"'
        )
    return Group(coordinator, int(process_id), int(count))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _listed(flags: "dict[str, str] | list[str] | set[str]") -> str:
    return " and ".join(filter(None, (", ".join(sorted(flags)[:-1]), sorted(flags)[-1])))


def _config_error(message: str) -> ConfigError:
    return ConfigError([f"{COMMAND_LINE}: {message}"])
