"""Tests that a mode of JAX cannot run: `make modes` runs all others of the device side under each mode."""

from typing import Any

import jax
import pytest

_CONFIG: Any = jax.config

infinite = pytest.mark.skipif(
    _CONFIG.jax_debug_infs, reason="an infinity of the test, or of an empty state, leaves a function"
)
promoting = pytest.mark.skipif(
    _CONFIG.jax_numpy_dtype_promotion == "strict", reason="arithmetic of the test's own promotes"
)
leaking = pytest.mark.skipif(
    _CONFIG.jax_check_tracer_leaks, reason="JAX reports a leak of every gradient of a shard_map"
)
wide = pytest.mark.skipif(
    _CONFIG.jax_enable_x64, reason="the test's own numbers are narrow, or refused, by 64-bit types"
)
