import contextlib
import math
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import sowlog
from sowlog.writers import Prometheus, Record


def record(step, values):
    """Return a record of a dict of scalars."""
    return Record(step, 1e9 + step, tuple(values), np.array(list(values.values()), np.float32))


def scrape(writer):
    """Return the samples of the page by name and label, as Prometheus reads them."""
    with urllib.request.urlopen(writer.url, timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def writer():
    """Return a writer at a free port, which is closed at the end."""
    with contextlib.closing(Prometheus(port=0)) as opened:
        yield opened


def test_a_scrape_has_the_last_values_steps_and_times(writer):
    """Of training and of evaluations; a tag that is absent keeps its value."""
    writer.write(record(1, {"loss": 1.0, "lr": 0.25}))
    writer.write(record(1, {"eval/loss": 2.0, "eval/accuracy": 0.5}))
    writer.write(record(2, {"loss": 0.5}))
    assert scrape(writer) == {
        ("sowlog_value", "loss"): 0.5,
        ("sowlog_value", "lr"): 0.25,
        ("sowlog_value", "eval/loss"): 2.0,
        ("sowlog_value", "eval/accuracy"): 0.5,
        ("sowlog_step", "train"): 2.0,
        ("sowlog_step", "eval"): 1.0,
        ("sowlog_time_seconds", "train"): 1e9 + 2,
        ("sowlog_time_seconds", "eval"): 1e9 + 1,
    }


def test_a_scrape_before_the_first_record_is_empty(writer):
    """And a record without scalars changes nothing."""
    assert scrape(writer) == {}
    writer.write(Record(3, 1.5, texts={"note": "a"}))
    assert scrape(writer) == {}


def test_odd_tags_and_values(writer):
    """NaN and infinity are values of Prometheus, and any text is a label."""
    tags = ['a "b"', "\\", "\n", "損失", "", "x" * 10_000]
    writer.write(record(0, {**{tag: i for i, tag in enumerate(tags)}, "inf": math.inf, "nan": math.nan}))
    samples = scrape(writer)
    assert [samples["sowlog_value", tag] for tag in tags] == [float(i) for i in range(len(tags))]
    assert samples["sowlog_value", "inf"] == math.inf
    assert math.isnan(samples["sowlog_value", "nan"])
    writer.write(record(0, {"\udc80": 1.0}))
    assert scrape(writer)["sowlog_value", "\\udc80"] == 1.0


def test_a_port_in_use_is_an_error_that_says_how_to_go_on(writer):
    """Of another run on the machine, mostly."""
    port = int(writer.url.split(":")[2].partition("/")[0])
    with pytest.raises(OSError, match=rf"port {port} of 127\.0\.0\.1 is in use: choose another one"):
        Prometheus(port)


def test_other_addresses_and_ports_that_cannot_be_used():
    """An address of another machine, and numbers that are no ports."""
    with pytest.raises(OSError, match=r"port 0 of 192\.0\.2\.1 cannot be used \(.*\): choose another port"):
        Prometheus(0, address="192.0.2.1")
    with pytest.raises(ValueError, match="port of Prometheus is 65536; it must be from 0"):
        Prometheus(65536)
    with pytest.raises(TypeError, match="port of Prometheus is '80', a str"):
        Prometheus("80")


def test_close_frees_the_port():
    """The next run may take it, and the page is gone."""
    with sowlog.Logger("unused", writers=[writer := Prometheus(0)]) as log:
        log(0, {"loss": 0.5})
        log.flush()
        assert scrape(writer)["sowlog_value", "loss"] == 0.5
    with pytest.raises(urllib.error.URLError, match="refused"):
        scrape(writer)
    Prometheus(int(writer.url.split(":")[2].partition("/")[0])).close()


def test_without_the_client_the_error_says_how_to_install_it(monkeypatch):
    """As other optional packages do."""
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ModuleNotFoundError, match=r"the client of Prometheus, .* 'sowlog\[prometheus\]'"):
        Prometheus(0)
