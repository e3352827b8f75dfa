"""Runs for the tests of the command line."""

from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event, write_file


def write_run(folder, *, hparams=None, name="events.out.tfevents.1.host", **series):
    """Write a run with hyperparameters and series, each a list of values from step 0, or a dict by step."""
    events = [VERSION]
    if hparams:
        events.append(event(0, shapes.keras_hparams(hparams)))
    for tag, values in series.items():
        steps = values if isinstance(values, dict) else dict(enumerate(values))
        events += [event(step, shapes.plain(tag.replace("__", "/"), value)) for step, value in steps.items()]
    return write_file(folder, events, name=name)
