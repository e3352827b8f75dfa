"""The writers of a run, from its configuration."""

import importlib.util
import json
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wandb
from mlflow import MlflowClient

from sowlog.writers import Prometheus, Record
from tests.support.collector import Collector
from tests.support.wandb_reading import runs_of
from tests.train.running import CONFIGS, TINY_DIGITS, digits, points, run
from train import __main__ as program
from train.config import file as config_file
from train.config.file import ConfigError
from train.runs import writers

FILE = str(CONFIGS / "digits.yaml")
OFFLINE = "{name: wandb, project: digits, mode: offline, every: 5}"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave out a login of this machine; MLflow writes to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def losses(folder: Path) -> list[tuple[int, float]]:
    """Return the points of the loss in metrics.jsonl that no resumed run supersedes."""
    shown: list[tuple[int, float]] = []
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if line.get("resumed"):
            shown = [point for point in shown if point[0] < line["step"]]
        elif "loss" in line.get("scalars", {}):
            shown.append((line["step"], line["scalars"]["loss"]))
    return shown


@pytest.mark.long
def test_tables_have_the_points_of_the_run(tmp_path: Path) -> None:
    """A resumed run removes the rows that it writes again, in both of them."""
    setting = "writers=[tensorboard, csv, {name: parquet, every: 2}]"
    run(digits("steps=6", setting), tmp_path / "mine")
    with (tmp_path / "mine" / "metrics.csv").open("a") as rows:
        # As a killed run leaves the steps behind its last checkpoint.
        rows.write("7,1.5,loss,99.0\n")
    run(digits("steps=12", setting), tmp_path / "mine")
    expected = points(tmp_path / "mine")["loss"]
    assert [step for step, _ in expected] == list(range(12))
    assert loss_rows(pd.read_csv(tmp_path / "mine" / "metrics.csv")) == expected
    assert loss_rows(pd.read_parquet(tmp_path / "mine" / "metrics.parquet")) == expected[::2]


def loss_rows(frame: pd.DataFrame) -> list[tuple[int, bytes]]:
    """Return the steps of the loss in a table, and the bits of its values."""
    found = frame[frame["tag"] == "loss"]
    values = (value.tobytes() for value in found["value"].to_numpy(np.float32))
    return list(zip(found["step"], values, strict=True))


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.timeout(120)
@pytest.mark.long
def test_several_writers_have_the_points_of_the_run(tmp_path: Path) -> None:
    """Each of them; a resumed run goes on in the same file, and as a fork of W&B's run."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow = f"{{name: mlflow, tracking_uri: '{store}', experiment: digits}}"
    setting = f"writers=[tensorboard, json_lines, {OFFLINE}, {mlflow}]"
    run(digits("steps=6", setting), tmp_path / "mine")
    with (tmp_path / "mine" / "metrics.jsonl").open("a") as lines:
        # As a killed run leaves the steps behind its last checkpoint.
        lines.write('{"step":7,"time":1.5,"scalars":{"loss":99.0}}\n')
    run(digits("steps=12", setting), tmp_path / "mine")
    wandb.teardown()
    run(digits("steps=12"), tmp_path / "straight")
    assert points(tmp_path / "mine") == points(tmp_path / "straight")
    steps, values = zip(*losses(tmp_path / "mine"), strict=True)
    assert steps == tuple(range(12))
    assert max(values) < 99
    before, after = runs_of(tmp_path / "mine")
    assert (before["group"], after["group"], after["name"]) == ("mine", "mine", "mine from 6")
    rows = [[row["global_step"] for row in each["rows"] if "loss" in row] for each in (before, after)]
    assert rows == [[0, 5], [10]]
    assert before["config"]["data.batch_size"] == 8
    client = MlflowClient(store)
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert found.info.run_name == str(tmp_path / "mine")
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(12))
    assert not list((tmp_path / "mine").glob("*.spool"))


def test_a_collector_has_the_points_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the path of the run folder; one that does not answer, or has no URL, is reported."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    collector = Collector()
    with collector.running():
        setting = f"writers=[{{name: opentelemetry, endpoint: '{collector.url}'}}]"
        built = writers.build(digits(setting).writers, tmp_path, None)
        built[0].write(Record(3, 1.5, ("loss",), np.ones(1, np.float32)))
        built[0].close()
    assert collector.points("sowlog.step") == [(1_500_000_000, "train", 3)]
    resource = collector.requests[0].resource_metrics[0].resource.attributes
    assert resource[1].value.string_value == str(tmp_path)
    assert not list(tmp_path.iterdir())
    options = digits("writers=[{name: opentelemetry, endpoint: 'localhost:4317'}]").writers
    with pytest.raises(
        ConfigError, match=r"writers\.0: endpoint of OpenTelemetry is localhost:4317; it must"
    ):
        writers.check(options, tmp_path)


def test_the_configuration_is_read_back(tmp_path: Path) -> None:
    """A name stands for a section that has no other setting, on the command line as well."""
    config = digits(f"writers=[tensorboard, {OFFLINE}]", "writers.1.every=3")
    assert [each.name for each in config.writers] == ["tensorboard", "wandb"]
    file = tmp_path / "config.yaml"
    file.write_text(config_file.dump(config))
    assert config_file.load(file) == config
    assert [each.name for each in digits().writers] == ["tensorboard"]
    assert digits("writers=[]").writers == []


def test_all_errors_of_writers_come_at_once() -> None:
    """Each with its place in the list, and a suggestion."""
    with pytest.raises(ConfigError, match="did you mean tensorboard") as caught:
        digits(
            "writers=[tensorbord, wandb, {name: wandb, project: x, evry: 2}, {name: prometheus, port: 70000}]"
        )
    assert [line.partition(": ")[2] for line in caught.value.errors] == [
        "writers.0.name: must be one of tensorboard, json_lines, csv, parquet, wandb, mlflow, "
        "opentelemetry, prometheus, "
        'got "tensorbord"; did you mean tensorboard?',
        "writers.1.project: missing.",
        "writers.2.evry: unknown key; did you mean every?",
        "writers.3.port: must be less than 65536, got 70000.",
    ]


@pytest.mark.parametrize("name", ["tensorboard", "json_lines", "csv", "parquet"])
def test_a_file_of_the_run_folder_has_one_writer(name: str) -> None:
    """Two of a service have a run each, and are two writers."""
    message = (
        rf'writers\.2\.name: the list has "{name}" twice, whose file in the run folder is one: remove one'
    )
    with pytest.raises(ConfigError, match=message):
        digits(f"writers=[{name}, prometheus, {name}]")
    assert len(digits(f"writers=[{OFFLINE}, {name}, {OFFLINE}]").writers) == 3


def test_the_help_lists_the_settings_of_each_writer(capsys: pytest.CaptureFixture[str]) -> None:
    """And the default of the list."""
    assert program.main(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "writers (default: [{name: tensorboard}]): a list." in out
    assert "writers.N.name=wandb: Weights & Biases" in out
    assert "writers.N.project: text; required" in out
    assert "writers.N.port: whole number >= 0, < 65536; default 9464" in out


def test_a_dry_run_names_the_writers_and_a_missing_login(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run folder is made."""
    monkeypatch.chdir(tmp_path)
    arguments = [FILE, *TINY_DIGITS, "--dry-run"]
    assert program.main([*arguments, f"writers=[tensorboard, {OFFLINE}]"]) == 0
    expected = "writers: tensorboard, wandb (project digits, mode offline, every 5)"
    assert capsys.readouterr().out.splitlines()[-1] == expected
    assert program.main([*arguments, "writers=[{name: wandb, project: x}]"]) == 2
    assert "writers.0: W&B has no login on this machine" in capsys.readouterr().err
    arguments = [FILE, *TINY_DIGITS, "writers=[{name: wandb, project: x}]", "--workdir", "run"]
    assert program.main(arguments) == 2
    assert "writers.0: W&B has no login on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_ends_the_program_and_closes_the_other_writers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the place in the configuration; the same command works with another port."""
    other = Prometheus(0)
    try:
        with urllib.request.urlopen(other.url) as page:
            assert page.status == 200
        port = other.url.split(":")[2].partition("/")[0]
        setting = f"writers=[tensorboard, json_lines, {{name: prometheus, port: {port}}}]"
        arguments = [FILE, *TINY_DIGITS, "--workdir", str(tmp_path / "run")]
        assert program.main([*arguments, setting]) == 2
        assert f"writers.2: port {port} of 127.0.0.1 is in use" in capsys.readouterr().err
        assert not list((tmp_path / "run").glob("*tfevents*"))
        assert program.main([*arguments, "steps=2", f"{setting.partition('{')[0]}]"]) == 0
    finally:
        other.close()
    # Of two with one port the first has it, until the second fails.
    twice = f"writers=[{{name: prometheus, port: {port}}}, {{name: prometheus, port: {port}}}]"
    with pytest.raises(ConfigError, match=rf"writers\.1: port {port} of 127\.0\.0\.1 is in use"):
        writers.build(digits(twice).writers, tmp_path / "run", None)
    Prometheus(int(port)).close()


def test_two_services_of_one_kind_have_a_file_each(tmp_path: Path) -> None:
    """So that each forwards its own records."""
    built = writers.build(digits(f"writers=[{OFFLINE}, {OFFLINE}]").writers, tmp_path, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wandb.1.spool", "wandb.spool"]
    for each in built:
        each.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "package"), [("parquet", "pyarrow"), ("prometheus", "prometheus_client")])
def test_a_missing_package_is_found_before_a_run_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    """With its place in the list, and the extra that installs it."""
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda each: None if each == package else find(each))
    options = digits(f"writers=[tensorboard, {name}]").writers
    with pytest.raises(ConfigError, match=rf"writers\.1: needs {package}, .* pip install 'sowlog\["):
        writers.check(options, tmp_path / "run")
    assert not (tmp_path / "run").exists()
