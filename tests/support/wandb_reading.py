"""The records of a W&B run, from the file that its own process writes: a log of LevelDB's form."""

import json
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK = 1 << 15


def payloads(path: Path):
    """Yield the payload of each record, of one or several chunks in blocks of 32 KiB."""
    content, place, payload = path.read_bytes(), 7, b""
    while place < len(content):
        left = _BLOCK - place % _BLOCK
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        payload += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last chunk
            yield payload
            payload = b""


def runs_of(folder: Path):
    """Return the runs under a folder, each a dict of rows, config, name, group and exit code, by time."""
    return [
        _run_of(path)
        for path in sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    ]


def _run_of(path: Path):
    rows, config, run = [], {}, {"folder": path.parent}
    for payload in payloads(path):
        record = wandb_internal_pb2.Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(_row(record.history.item))
        elif kind == "run":
            run |= {"name": record.run.display_name, "group": record.run.run_group}
            config |= dict(map(_item, record.run.config.update))
        elif kind == "config":
            config |= dict(map(_item, record.config.update))
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return {**run, "rows": rows, "config": config}


def _row(items):
    """Return a row, with media as dicts."""
    row = {}
    for item in items:
        *parents, name = [item.key] if item.key else item.nested_key
        place = row
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = json.loads(item.value_json)
    return row


def _item(item):
    return item.key or "/".join(item.nested_key), json.loads(item.value_json)
