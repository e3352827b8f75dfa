"""The command line as a process: imports, pipes and exit statuses."""

import ast
import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sowlog
from sowlog import _public
from sowlog._cli.arguments import make_parser
from tests.cli.writing import write_run
from tests.support import event_shapes as shapes
from tests.support.event_shapes import event


def python(*arguments, **options):
    """Run Python with no JAX imported beforehand."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_command_imports_no_more_than_it_needs(tmp_path):
    """JAX takes seconds to import; NumPy, and protobuf, which plain scalars do not need, 0.1 s each."""
    for seed in ("0", "1"):
        write_run(tmp_path / "plain" / seed, loss=[1.0, 0.5, 0.25])
    with sowlog.Logger(tmp_path / "rich") as log:
        log.hparams({"rate": 0.1})
        log.text(0, "note", "halfway")
    heavy = ("jax", "flax", "optax", "rich", "pandas", "pyarrow", "matplotlib")
    protobuf = ("google.protobuf", "tensorboardX")
    for arguments, banned in (
        (["--help"], (*heavy, *protobuf, "numpy")),
        (["show", str(tmp_path / "rich")], heavy),
        *(
            ([command, str(tmp_path / path), *options], (*heavy, *protobuf))
            for command, path, *options in (
                ("show", "plain/0"),
                ("compare", "plain"),
                ("export", "plain", "-o", str(tmp_path / "points.csv")),
                ("tail", "plain/0"),
                ("plot", "plain"),
            )
        ),
    ):
        code = (
            "import runpy, sys\n"
            "try: runpy.run_module('sowlog', run_name='__main__')\n"
            "except SystemExit as end:\n"
            f"    print('imported', [name for name in {banned!r} if name in sys.modules], end.code)"
        )
        done = python("-c", f"import sys; sys.argv[1:] = {arguments!r}\n{code}")
        assert done.stdout.splitlines()[-1] == "imported [] 0", done.stderr


def test_the_version_is_that_of_the_package():
    """On standard output, as other programs do; `sowlog.__version__` in Python."""
    done = python("-m", "sowlog", "--version")
    assert (done.returncode, done.stdout) == (0, f"sowlog {importlib.metadata.version('sowlog')}\n")
    assert sowlog.__version__ == importlib.metadata.version("sowlog")


def test_reading_a_run_imports_no_jax(tmp_path):
    """`import sowlog` does not either; the first name of the device side brings all public names."""
    write_run(tmp_path, loss=[1.0])
    code = (
        "import sys, sowlog\n"
        "run = sowlog.read(sys.argv[1]); sowlog.read_all(sys.argv[1])\n"
        "print(type(run), 'jax' in sys.modules, 'mean' in vars(sowlog))\n"
        "sowlog.mean; print('jax' in sys.modules, sorted(vars(sowlog).keys() & {'sow', 'read', 'Logger'}))\n"
    )
    done = python("-c", code, tmp_path)
    assert done.stdout.splitlines() == [
        "<class 'sowlog.Run'> False False",
        "True ['Logger', 'read', 'sow']",
    ], done.stderr


def test_no_package_of_an_extra_is_imported_before_its_first_use():
    """The classes of all writers and a logger cost no import of theirs; rich is one of Flax's own imports."""
    extras = (
        "wandb",
        "mlflow",
        "prometheus_client",
        "opentelemetry",
        "pyarrow",
        "pandas",
        "matplotlib",
        "PIL",
    )
    code = (
        "import sys, sowlog\n"
        "classes = [getattr(sowlog.writers, name) for name in sowlog.writers.__all__]\n"
        "sowlog.Logger('unused', writers=[sowlog.testing.MemoryWriter()]).close()\n"
        f"print([name for name in {extras} if name in sys.modules], len(classes) > 10)\n"
    )
    done = python("-c", code)
    assert done.stdout.splitlines() == ["[] True"], done.stderr


def test_names_that_are_first_used_while_jax_traces_are_right():
    """The import then happens inside of a traced function, and leaves no tracer behind."""
    code = (
        "import sowlog, jax, jax.numpy as jnp\n"
        "def f(x):\n"
        "    sowlog.sow('x', x, sowlog.mean)\n"
        "    return x\n"
        "def g(x):\n"
        "    return sowlog.pack(sowlog.collect(f)(x)[1]['metrics'])\n"
        "packed = jax.jit(g)(jnp.arange(4.0))\n"
        "print(*(float(sowlog.compute(each)['x']) for each in (packed, jax.jit(g)(jnp.arange(6.0)))))\n"
    )
    done = python("-c", code, env={**os.environ, "JAX_CHECK_TRACER_LEAKS": "1"})
    assert done.stdout == "1.5 2.5\n", done.stderr


@pytest.mark.long
def test_the_public_names_are_read_without_jax_and_listed_with_it(tmp_path):
    """A list of the names, or a name that is none, imports all of them; a private name imports nothing."""
    code = (
        "import sys, sowlog\n"
        "print(hasattr(sowlog, '_nowhere'), 'jax' in sys.modules)\n"
        "from sowlog import *\n"
        "print('Logger' in dir(sowlog), Logger is sowlog.Logger, '__all__' in dir(sowlog))\n"
    )
    assert python("-c", code).stdout.splitlines() == ["False False", "True True True"]
    for names in ("dir(sowlog)", "sowlog.__all__"):
        code = f"import sowlog; print({{'Logger', 'read'}} <= set({names}))"
        assert python("-c", code).stdout == "True\n"


def test_the_files_of_the_names_that_need_no_jax_are_right():
    """The facade imports these names from their own files."""
    reading = {name: getattr(_public, name) for name in sowlog._READING}
    assert {name: f"sowlog._events.{file}" for name, file in sowlog._READING.items()} == {
        name: _module_of(value) for name, value in reading.items()
    }
    with pytest.raises(AttributeError, match="module 'sowlog' has no attribute 'nowhere'"):
        sowlog.nowhere  # noqa: B018 - the access itself


def _module_of(value):
    """Return the module whose source defines a value, as classes show the one that users import."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.startswith("sowlog._events.") and path and vars(module).get(value.__name__) is value:
            tree = ast.parse(Path(path).read_text())
            if any(getattr(node, "name", None) == value.__name__ for node in tree.body):
                return name
    raise AssertionError(value)


@pytest.mark.parametrize("command", ["show", "tail", "check", "plot"])
def test_a_path_that_the_system_refuses_is_the_cause(tmp_path, sowlog_command, command):
    """And not the output; of a longer name than the file system has."""
    status, output, errors = sowlog_command(command, tmp_path / ("x" * 300))
    assert (status, output) == (2, "")
    assert errors == f"sowlog {command}: {tmp_path / ('x' * 300)} cannot be used: File name too long.\n"


@pytest.mark.parametrize("command", ["show", "tail"])
def test_a_closed_output_is_an_error(tmp_path, command):
    """As by `>&-` in a shell; a closed stream of errors leads none of them to the output."""
    write_run(tmp_path, loss=[1.0])
    program = f'"{sys.executable}" -m sowlog {command}'
    done = python_in_shell(f'{program} "{tmp_path}" >&-')
    message = f"sowlog {command}: the output cannot be written: standard output is closed.\n"
    assert (done.returncode, done.stderr) == (2, message)
    done = python_in_shell(f'{program} "{tmp_path}/nothing" 2>&-')
    assert (done.returncode, done.stdout) == (2, "")
    write_run(tmp_path / "below", loss=[1.0])
    done = python_in_shell(f'{program} "{tmp_path}" 2>&-')
    assert (done.returncode, "left out" in done.stdout) == (0, False)


def python_in_shell(line):
    """Run a line of a shell."""
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)


def test_ctrl_c_while_numpy_is_imported_ends_the_command(tmp_path):
    """Without an ImportError, into which an extension module turns it."""
    write_run(tmp_path, loss=[1.0])
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'numpy':\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "            except KeyboardInterrupt:\n"
        "                raise ImportError('an extension module')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sowlog._cli.main import main\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"main(['show', {str(tmp_path)!r}])\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, sowlog_command, monkeypatch):
    """Beside the other runs; alone it is the error. Its path is longer than the system takes."""
    write_run(tmp_path / "tree" / "run", loss=[1.0])
    (tmp_path / "deep").mkdir()
    for place in ("tree", "deep"):
        monkeypatch.chdir(tmp_path / place)
        for _ in range(20):
            Path("y" * 250).mkdir()
            os.chdir("y" * 250)
    monkeypatch.chdir(tmp_path)
    status, output, errors = sowlog_command("show", "tree")
    assert (status, output.splitlines()[0].split()[:2]) == (0, ["tree/run:", "1"])
    assert errors.startswith("skipped: tree/yyy")
    assert errors.endswith("yyy cannot be used: File name too long.\n")
    with pytest.raises(OSError, match=r"File name too long: 'deep/yyy"):
        sowlog.read_all("deep")


@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"], ["check"]])
def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path, arguments):
    """As `head` does: no traceback, and the status of the command."""
    for number in range(300):
        write_run(tmp_path / f"run_{number:03}", **{f"loss_{number}": [1.0]})
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as output:
        command = [sys.executable, "-m", "sowlog", *arguments, str(tmp_path)]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["show", "tail"])
def test_output_that_cannot_be_written_is_an_error(tmp_path, command):
    """A full disk has status 2 and one line."""
    write_run(tmp_path, loss=[1.0])
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sowlog", command, str(tmp_path)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    message = f"sowlog {command}: the output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize("arguments", [[], ["shw"], ["show"], ["show", "--nowhere", "x"], ["export", "x"]])
def test_wrong_arguments_have_status_2(arguments, capsys):
    """And the usage."""
    with pytest.raises(SystemExit, match=r"^2$"):
        make_parser().parse_args(arguments)
    assert "usage: sowlog" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["show"], ["compare"], ["plot"], ["export"], ["check"], ["tail"]])
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_help_fits_the_terminal(command, columns, capsys, monkeypatch):
    """No line is longer, and no option is cut at its hyphens."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match=r"^0$"):
        make_parser().parse_args([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if line.endswith("-")]


def keys_of(data):
    """Yield the keys of JSON but for names of the run: those have a slash or a dot here."""
    if isinstance(data, dict):
        yield from (key for key in data if not set(key) & {"/", "."})
        data = list(data.values())
    if isinstance(data, list):
        for each in data:
            yield from keys_of(each)


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "runs/a"],
        ["show", "runs/a", "runs/b", "--tag", "eval/x"],
        ["compare", "runs/a", "runs/b"],
        ["plot", "runs/a", "runs/b"],
        ["check", "runs/a", "--expect", "eval/x>0"],
        ["export", "runs/a", "-o", "a.csv"],
        ["tail", "runs/a"],
    ],
)
def test_the_help_describes_the_json(arguments, tmp_path, monkeypatch, capsys, sowlog_command):
    """Each key of the output is in the help of the command."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("runs/a", "runs/b")):
        write_run(
            Path(name), hparams={"x.rate": 0.5, "x.seed": float(seed)}, eval__x=[1.0 + seed, math.nan, 2.0]
        )
    path = Path("runs/a/events.out.tfevents.1.host")
    histogram = event(7, shapes.histogram_v1("eval/h", [1], [1.0], 0.0, 1.0))
    path.write_bytes(path.read_bytes() + shapes.frame(histogram.SerializeToString()))
    status, output, errors = sowlog_command(*arguments, "--json")
    assert (status, errors) == (0, "")
    with pytest.raises(SystemExit, match=r"^0$"):
        make_parser().parse_args([arguments[0], "--help"])
    text = capsys.readouterr().out
    keys = {key for line in output.splitlines() for key in keys_of(json.loads(line))}
    assert keys
    assert {key for key in keys if f'"{key}"' not in text} == set()


def test_a_stream_without_unicode_has_plain_curves(tmp_path):
    """And no error of encoding, whatever the tags are."""
    write_run(tmp_path, ö=[1.0, 2.0])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = python("-m", "sowlog", "show", tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    done = python("-m", "sowlog", "show", "--json", tmp_path, env=environment)
    assert json.loads(done.stdout)["tags"][0]["tag"] == "ö"


@pytest.mark.parametrize("command", ["show", "compare", "plot"])
def test_infinities_of_both_signs_are_shown_without_a_warning(tmp_path, sowlog_command, command):
    """Their mean is NaN, and NumPy warns of it, on the terminal of a user."""
    for seed, values in enumerate(([math.inf, -math.inf, 1.0], [-math.inf, -math.inf, math.inf])):
        hparams = {"seed": float(seed), "rate": 1.0}
        write_run(tmp_path / f"{seed}", hparams=hparams, loss=values * 40)
    runs = [tmp_path / "0", tmp_path / "1"]
    status, output, errors = sowlog_command(command, *runs[: 1 if command == "show" else 2])
    assert (status, errors) == (0, "")
    assert "loss" in output
