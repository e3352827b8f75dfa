"""Seeds: the empty states that let a loop or a branch sow what was never sown before it.

JAX wants one structure from both branches of a cond and from both ends of a loop. A model that sows in one
branch only has it when the states are there before. Their names are found by abstract passes: whatever
cannot be stored is withheld, until the pass goes through; what was withheld is then seeded. A probe at the
entry of each module tells how transforms stack it, and so the shape of its seeds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext

from sowlog._recording import LostMetricError, Recorder, Site, recording
from sowlog._state import State, broadcast

_PROBE = "sowlog probe"
Pass = Callable[[], tuple[Any, Mapping[str, Any]]]
"""Runs the model once and returns its result and updates."""


def find_seeds(run: Pass, collections: list[str]) -> dict[str, Any]:
    """Returns the empty states, by collection, that a model needs before it can sow.

    Args:
        run: a forward pass, in which sows report to the current recorder.
        collections: those that are sown to.

    Returns:
        Nested dicts, empty if the model needs none: then what fails is no matter of sowing.
    """
    withheld: set[Site] = set()
    while True:
        recorder = Recorder(frozenset(withheld))
        try:
            with recording(recorder), nn.intercept_methods(_probe(recorder, collections)):
                _, updates = jax.eval_shape(run)
        except TypeError:
            # The last transform that something was stored in is the one that could not take it.
            refused = recorder.last_lifted()
            if not refused:
                return {}
            withheld |= refused
            continue
        needed = [site for site in recorder.states if site in withheld and site.name != _PROBE]
        return _seeds({site: recorder.states[site] for site in needed}, updates)


def _probe(recorder: Recorder, collections: list[str]) -> Callable[..., Any]:
    """Returns an interceptor that stores a scalar at the entry of every module."""

    def enter(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        module = context.module
        if module.scope is not None and recorder.hears():
            for collection in collections:
                site = Site(collection, tuple(module.path), _PROBE)
                wanted = module.is_mutable_collection(collection) and site not in recorder.withheld
                # A branch is a method of the module around it, which was entered before.
                if wanted and not module.has_variable(collection, _PROBE):
                    recorder.note_stored(module, site)
                    module.scope.put_variable(collection, _PROBE, jnp.zeros(()))
        return call(*args, **kwargs)

    return enter


def _seeds(states: Mapping[Site, State], updates: Mapping[str, Any]) -> dict[str, Any]:
    seeds: dict[str, Any] = {}
    for site, state in states.items():
        node = seeds.setdefault(site.collection, {})
        for key in site.path:
            node = node.setdefault(key, {})
        stacked = _stacked_axes(updates.get(site.collection, {}), site)
        node[site.name] = broadcast(state.reducer.init_fn(), stacked + state.seen.shape)
    return seeds


def _stacked_axes(probes: Any, site: Site) -> tuple[int, ...]:
    """Returns the shape that transforms give to what the module at a site stores."""
    shape: tuple[int, ...] | None = None
    for key in (*site.path, None):
        shape = probes[_PROBE].shape if _PROBE in probes else shape
        probes = probes.get(key, {}) if key is not None else {}
    if shape is None:
        raise LostMetricError(f"{site}: no module around it could be probed, so its seed has no known shape.")
    return shape
