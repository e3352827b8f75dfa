"""Tensors of event files as arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._events.wire import listed_integers

# NumPy has no such dtype, so its elements are read as their bits.
_BFLOAT16 = 14
_STRING = 7
# Fields uint32_val and uint64_val, which tensorboardX does not declare. Torch lists uint8 in uint32_val.
_UINT32_VAL, _UINT64_VAL = 16, 17
# A repeated number needs the memory of one, and a repeated text is decoded as often.
_REPEATED = 1 << 16
# By DataType of TensorFlow: the dtype of an element, and the field of a TensorProto that lists the elements,
# by number if tensorboardX does not declare it.
_DTYPES: dict[int, tuple[np.dtype[Any], str | int]] = {
    1: (np.dtype(np.float32), "float_val"),
    2: (np.dtype(np.float64), "double_val"),
    3: (np.dtype(np.int32), "int_val"),
    4: (np.dtype(np.uint8), "int_val"),
    5: (np.dtype(np.int16), "int_val"),
    6: (np.dtype(np.int8), "int_val"),
    9: (np.dtype(np.int64), "int64_val"),
    10: (np.dtype(np.bool_), "bool_val"),
    # Quantized numbers are read as their integers.
    11: (np.dtype(np.int8), "int_val"),
    12: (np.dtype(np.uint8), "int_val"),
    13: (np.dtype(np.int32), "int_val"),
    _BFLOAT16: (np.dtype(np.uint16), "half_val"),
    15: (np.dtype(np.int16), "int_val"),
    16: (np.dtype(np.uint16), "int_val"),
    17: (np.dtype(np.uint16), "int_val"),
    19: (np.dtype(np.float16), "half_val"),
    22: (np.dtype(np.uint32), _UINT32_VAL),
    23: (np.dtype(np.uint64), _UINT64_VAL),
}
_COMPLEX = {8: (np.dtype(np.complex64), "scomplex_val"), 18: (np.dtype(np.complex128), "dcomplex_val")}


def single_element(tensor: Any) -> float | None:
    """Return the element of a numeric tensor, or None if it has several or another type."""
    if tensor.dtype not in _DTYPES or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    try:
        return float(as_array(tensor).item())
    except ValueError:
        return None


def as_array(tensor: Any) -> NDArray[Any]:
    """Return the elements of a TensorProto: numbers, or an object array of bytes.

    The elements of a bfloat16 tensor are widened to float32. An array of one repeated element is read-only,
    and needs the memory of the element.

    Raises:
        ValueError: The elements do not fit the shape, or have a dtype without arrays.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.dtype == _STRING:
        strings = np.empty(len(tensor.string_val), object)
        strings[:] = list(tensor.string_val)
        return _shaped(strings, shape, b"")
    if tensor.dtype in _COMPLEX:
        elements = _complex(tensor)
    elif tensor.dtype in _DTYPES:
        elements = _real(tensor)
    else:
        raise ValueError(f"a tensor of TensorFlow's dtype {tensor.dtype} has no array")
    return _shaped(elements, shape, 0)


def _real(tensor: Any) -> NDArray[Any]:
    dtype, field = _DTYPES[tensor.dtype]
    is_bfloat16 = tensor.dtype == _BFLOAT16
    if tensor.tensor_content:
        elements = _content(tensor, dtype)
        return _widened(elements) if is_bfloat16 else elements
    if field == "half_val":
        return _halves(np.array(tensor.half_val, np.int32), dtype, is_bfloat16=is_bfloat16)
    listed = getattr(tensor, field) if isinstance(field, str) else _undeclared(tensor, field)
    if not listed and dtype == np.uint8:
        listed = _undeclared(tensor, _UINT32_VAL)
    return _exact(list(listed), dtype)


def _widened(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Return the float32 of bfloat16 bits, which are the upper half of its own."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _halves(listed: NDArray[np.int32], dtype: np.dtype[Any], *, is_bfloat16: bool) -> NDArray[Any]:
    """Return the numbers whose bits are listed."""
    if np.any(listed >> 16):
        # Torch lists the bits of a float32, whatever the dtype.
        floats = listed.view(np.float32)
        return floats if is_bfloat16 else floats.astype(dtype)
    bits = listed.astype(np.uint16)
    return _widened(bits) if is_bfloat16 else bits.view(dtype)


def _undeclared(tensor: Any, field: int) -> list[int]:
    """Return the integers of a field that tensorboardX keeps without its name."""
    return listed_integers(tensor.SerializeToString(), field)


def _exact(listed: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return listed elements in their dtype.

    Raises:
        ValueError: The dtype does not have one of them.
    """
    try:
        return np.array(listed, dtype)
    except OverflowError as error:
        extremes = f"elements from {min(listed)} to {max(listed)}"
        raise ValueError(f"a tensor of {dtype} lists {extremes}") from error


def _complex(tensor: Any) -> NDArray[Any]:
    dtype, field = _COMPLEX[tensor.dtype]
    if tensor.tensor_content:
        return _content(tensor, dtype)
    parts = list(getattr(tensor, field))
    if len(parts) % 2:
        raise ValueError(f"a tensor of {dtype} lists {len(parts)} real and imaginary parts")
    return np.array(parts, f"f{dtype.itemsize // 2}").view(dtype)


def _content(tensor: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if len(tensor.tensor_content) % dtype.itemsize:
        raise ValueError(f"a tensor of {dtype} has {len(tensor.tensor_content)} bytes")
    return np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<")).astype(dtype)


def _shaped(elements: NDArray[Any], shape: tuple[int, ...], zero: object) -> NDArray[Any]:
    """Return elements in a shape; protobuf's shorthand repeats a single one, and no element means 0."""
    size = math.prod(shape)
    if min(shape, default=0) < 0 or (len(elements) > 1 and len(elements) != size):
        raise ValueError(f"a tensor of shape {list(shape)} has {len(elements)} elements")
    if len(elements) == size:
        return elements.reshape(shape)
    if elements.dtype == object and size > _REPEATED:
        raise ValueError(f"a tensor of shape {list(shape)} repeats one text")
    single = elements if len(elements) else np.full(1, zero, elements.dtype)
    return np.broadcast_to(single.reshape(()), shape)
