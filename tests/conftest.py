"""What every test runs under: the strictest JAX settings and a compilation cache that outlives the run."""

import os
from pathlib import Path

# Before jax is imported anywhere: subprocesses that tests start inherit these.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Four virtual devices, for what is sharded; everything else stays on the first.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import hypothesis

hypothesis.settings.register_profile(
    "sowlog",
    deadline=None,  # a first example pays for a compilation
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("sowlog")
