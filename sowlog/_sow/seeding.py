"""Seeds: the empty states that a loop or branch needs before its first sow.

JAX requires one structure from both branches of a cond and from both ends of a loop. A model that sows in one
branch only has it if the states exist before. Abstract passes find their names: a pass withholds the sows
that could not be stored, until JAX accepts it; the withheld sites are then seeded. A probe at the entry of
each module shows the axes that transforms stack, and so the shape of the seeds.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext
from jax.experimental.xla_metadata import set_xla_metadata

from sowlog._reduce.state import broadcast
from sowlog._sow import transforms
from sowlog._sow.recording import LostMetricError, Recorder, Site, has_own_axes, recording

_PROBE = "sowlog probe"
# A probe has more axes than any state; all have size 0, so that axes added by transforms are distinct.
_PROBE_AXES = 8
_passes = itertools.count()
Pass = Callable[[], tuple[Any, Mapping[str, Any]]]
"""Runs the model once and returns its result and updates."""


def find_seeds(run: Pass, collections: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the empty states, by collection, that a model needs before it can sow.

    Args:
        run: a forward pass, in which sows report to the current recorder.
        collections: the collections of the sows.

    Returns:
        Nested dicts, empty if the model needs no seeds, and errors of the sows without a known seed. If both
        are empty, the failure has another cause than sowing.
    """
    withheld: set[Site] = set()
    while True:
        recorder = Recorder(frozenset(withheld))
        try:
            with recording(recorder), nn.intercept_methods(_probe(recorder, collections)), _fresh_traces():
                # The result of a model may hold other objects than arrays; its updates hold arrays.
                updates = jax.eval_shape(lambda: run()[1])
        except TypeError:
            # JAX refused the transform of the last stored value.
            refused = recorder.last_lifted()
            if not refused:
                return {}, []
            withheld |= refused
            continue
        needed = [site for site in recorder.states if site in withheld]
        unknown = recorder.withheld_without_reducer()
        return _seeds(recorder, needed, updates), [recorder.unseedable_message(site) for site in unknown]


@contextlib.contextmanager
def _fresh_traces() -> Generator[None]:
    """Keep this pass's traces apart from all others'.

    A trace that `nn.jit` has cached runs no Python, so nothing in it could be withheld; and one cached
    here, with probes in it, must not serve a real pass. Metadata are part of the key of JAX's caches.
    """
    with set_xla_metadata(sowlog_pass=str(next(_passes))):
        yield


def _probe(recorder: Recorder, collections: list[str]) -> Callable[..., Any]:
    """Return an interceptor that stores a probe at the entry of every module."""

    def enter(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        module = context.module
        if module.scope is not None and recorder.hears() and not transforms.is_rehearsal():
            for collection in collections:
                site = Site(collection, tuple(module.path), _PROBE)
                wanted = module.is_mutable_collection(collection) and site not in recorder.withheld
                # A branch is a method of the module around it, which was entered before.
                if wanted and not module.has_variable(collection, _PROBE):
                    recorder.note_stored(module, site)
                    module.scope.put_variable(collection, _PROBE, jnp.zeros((0,) * _PROBE_AXES))
        return call(*args, **kwargs)

    return enter


def _seeds(recorder: Recorder, sites: list[Site], updates: Mapping[str, Any]) -> dict[str, Any]:
    seeds: dict[str, Any] = {}
    for site in sites:
        node = seeds.setdefault(site.collection, {})
        for key in site.path:
            node = node.setdefault(key, {})
        state = recorder.states[site]
        probed = _probed_shape(updates.get(site.collection, {}), site)
        if probed[-1] and has_own_axes(state.reducer):
            raise LostMetricError(recorder.stacked_apart_message(site))
        node[site.name] = broadcast(state.reducer.init_fn(), _stacked(state.seen.shape, probed))
    return seeds


def _stacked(batch: tuple[int, ...], probed: tuple[int, ...]) -> tuple[int, ...]:
    """Return a state's batch shape with the axes that transforms added to a probe, at the same places."""
    own = iter(batch)
    found = [size for axis in probed for size in ([axis] if axis else itertools.islice(own, 1))]
    return (*found, *own)


def _probed_shape(probes: Any, site: Site) -> tuple[int, ...]:
    """Return the shape that transforms add to the values of the module at a site."""
    shape: tuple[int, ...] | None = None
    for key in (*site.path, None):
        shape = probes[_PROBE].shape if _PROBE in probes else shape
        probes = probes.get(key, {}) if key is not None else {}
    if shape is None:
        raise LostMetricError(f"{site}: no module around it could be probed, so its seed has no known shape.")
    return shape
