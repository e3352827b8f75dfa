"""YAML as people write configurations: safe, with the numbers they mean, and the place of each key."""

import re
from collections.abc import Iterator
from typing import Any, cast

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from train.schema import Key

ERRORS = (yaml.YAMLError, ValueError, RecursionError)
"""What `read` and `read_value` raise for a broken text."""

_NUMBER = "tag:yaml.org,2002:float"
_WHOLE_NUMBER = "tag:yaml.org,2002:int"
_MAX_BITS = 1024


class _Loader(yaml.SafeLoader):
    """The safe loader, without what YAML 1.1 makes of numbers, and without aliases.

    YAML 1.1 reads 1e-3 as a string and 10:15 as 615. An alias may hold itself, or stand for 9^9 copies.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            problem = "an alias; write the value out, or keep it in a file that others name as `base`"
            raise ComposerError(None, None, problem, mark)
        return super().compose_node(parent, index)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        number = self.construct_yaml_int(node)
        if number.bit_length() > _MAX_BITS:
            problem = f"a whole number of {number.bit_length()} bits"
            raise ConstructorError(None, None, problem, node.start_mark)
        return number


# By first letter, in a dict that the class would share with its base.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_NUMBER, _WHOLE_NUMBER)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(_WHOLE_NUMBER, _Loader.construct_whole_number)
_Loader.add_implicit_resolver(
    _WHOLE_NUMBER, re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)\Z"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _NUMBER,
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
    ),
    list("-+.0123456789"),
)


def read_value(text: str) -> Any:
    """Reads one YAML value."""
    return yaml.load(text, _Loader)


def read(text: str) -> tuple[object, dict[Key, int], list[tuple[Key, int]]]:
    """Reads a YAML document.

    Returns:
        What it holds ({} if nothing), the line of each key of nested mappings, and the keys that stand in
        their mapping a second time, with those lines.
    """
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return {}, {}, []
    lines: dict[Key, int] = {}
    doubles = list(_locate(node, (), lines))
    return loader.construct_document(node), lines, doubles


def _locate(node: yaml.Node, prefix: Key, lines: dict[Key, int]) -> Iterator[tuple[Key, int]]:
    """Fills in the line of each key, and yields the keys that stand there twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
        key, line = (*prefix, str(name.value)), name.start_mark.line + 1
        if key in lines:
            yield key, line
        else:
            lines[key] = line
            yield from _locate(value, key, lines)
