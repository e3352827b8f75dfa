"""The places of a summary's values in a serialized event, by the wire format of protobuf."""

from __future__ import annotations

# The wire types of a number, of fields with a length, and of the end of a group.
_VARINT, _BYTES, _GROUP_END = 0, 2, 4
# The fields of an Event of which only the last one set counts, and among them its summary.
_ONE_OF = range(3, 10)
_SUMMARY, _VALUE = 5, 1


def value_places(payload: bytes) -> list[tuple[int, int]]:
    """Return start and end of each serialized value of an event's summary, in order.

    Raises:
        ValueError: The payload is no message of protobuf.
    """
    places: list[tuple[int, int]] = []
    for field, kind, start, end in _fields(payload, 0, len(payload)):
        if field == _SUMMARY and kind == _BYTES:
            values = _fields(payload, start, end)
            places += [
                (first, last) for number, form, first, last in values if (number, form) == (_VALUE, _BYTES)
            ]
        elif field in _ONE_OF and kind == _BYTES:
            places.clear()
    return places


def listed_integers(message: bytes, number: int) -> list[int]:
    """Return the unsigned integers of a repeated field of a serialized message, packed or one by one.

    Args:
        message: the message.
        number: the number of the field.

    Raises:
        ValueError: The field holds something else.
    """
    listed: list[int] = []
    for field, kind, start, end in _fields(message, 0, len(message)):
        if field != number:
            continue
        if kind not in (_VARINT, _BYTES):
            raise ValueError(f"field {number} has the wire type {kind} and no integers")
        place = start
        while place < end:
            integer, place = varint(message, place, end)
            listed.append(integer)
    return listed


def varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the unsigned integer that a varint encodes, and its end.

    Raises:
        ValueError: It is cut short, or longer than ten bytes.
    """
    number = 0
    for index in range(10):
        if start + index >= end:
            break
        byte = data[start + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, start + index + 1
    raise ValueError("holds no Event: a number is cut short")


def _fields(data: bytes, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """Return number, wire type, start and end of each field between two positions."""
    fields: list[tuple[int, int, int, int]] = []
    while start < end:
        key, start = varint(data, start, end)
        last = _end(data, key, start, end)
        first = start
        if key & 7 == _BYTES:
            _, first = varint(data, start, end)
        if last > end:
            raise ValueError("holds no Event: a field is cut short")
        fields.append((key >> 3, key & 7, first, last))
        start = last
    return fields


def _end(data: bytes, key: int, start: int, end: int) -> int:
    """Return the end of a field whose content begins at `start`."""
    match key & 7:
        case 0:
            return varint(data, start, end)[1]
        case 1:
            return start + 8
        case 2:
            size, start = varint(data, start, end)
            return start + size
        case 5:
            return start + 4
        case 3:
            return _group_end(data, start, end)
        case _:
            raise ValueError(f"holds no Event: a field has the wire type {key & 7}")


def _group_end(data: bytes, start: int, end: int) -> int:
    """Return the end of a group, a form of protobuf 1 that may stand among unknown fields."""
    while True:
        inner, start = varint(data, start, end)
        if inner & 7 == _GROUP_END:
            return start
        start = _end(data, inner, start, end)
