"""Tensors of event files as arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# NumPy has no such dtype, so its elements are read as their bits.
_BFLOAT16 = 14
_STRING = 7
# A repeated number needs the memory of one, and a repeated text is decoded as often.
_REPEATED = 1 << 16
# By TensorFlow's DataType: the dtype of an element, and the field of a TensorProto that lists the elements,
# if tensorboardX has it.
_DTYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype(np.float32), "float_val"),
    2: (np.dtype(np.float64), "double_val"),
    3: (np.dtype(np.int32), "int_val"),
    4: (np.dtype(np.uint8), "int_val"),
    5: (np.dtype(np.int16), "int_val"),
    6: (np.dtype(np.int8), "int_val"),
    9: (np.dtype(np.int64), "int64_val"),
    10: (np.dtype(np.bool_), "bool_val"),
    _BFLOAT16: (np.dtype(np.uint16), "half_val"),
    17: (np.dtype(np.uint16), "int_val"),
    19: (np.dtype(np.float16), "half_val"),
    22: (np.dtype(np.uint32), ""),
    23: (np.dtype(np.uint64), ""),
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
    if tensor.dtype == _BFLOAT16:
        # The bits of a bfloat16 are the upper half of a float32's.
        elements = (elements.astype(np.uint32) << 16).view(np.float32)
    return _shaped(elements, shape, 0)


def _real(tensor: Any) -> NDArray[Any]:
    dtype, field = _DTYPES[tensor.dtype]
    if tensor.tensor_content:
        return _content(tensor, dtype)
    if not field:
        raise ValueError(f"a tensor lists elements of {dtype} in a field that tensorboardX does not declare")
    listed = list(getattr(tensor, field))
    # A half is stored as the integer with its bits.
    is_bits = field == "half_val"
    elements = np.array(listed, np.uint16 if is_bits else dtype)
    return elements.view(dtype) if is_bits else elements


def _complex(tensor: Any) -> NDArray[Any]:
    dtype, field = _COMPLEX[tensor.dtype]
    if tensor.tensor_content:
        return _content(tensor, dtype)
    pairs = np.array(getattr(tensor, field), np.float64)
    return (pairs[::2] + 1j * pairs[1::2]).astype(dtype)


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
