"""Peaks of accelerators, in FLOP/s of dense bfloat16 products."""

# By the beginning of `jax.Device.device_kind`, of which the longest counts. NVIDIA: data sheets, without
# sparsity, with float32 accumulation. TPUs: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, per
# device of JAX, which is a core of v2 and v3 and a chip of the others.
_PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA GH200": 989.4e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def peak_of(kind: str) -> float | None:
    """Return the peak of a device by its kind; None if it is unknown.

    Example:
        >>> peak_of("NVIDIA A100-SXM4-80GB")
        312000000000000.0
    """
    known = [name for name in _PEAKS if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    return _PEAKS[max(known, key=len)] if known else None
