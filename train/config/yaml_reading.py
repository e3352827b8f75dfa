"""YAML as people write configurations: safe, its words as they are meant, each key with its place."""

import math
import re
from collections.abc import Iterator
from typing import Any, cast

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from train.config.fields import Key

ERRORS = (yaml.YAMLError, ValueError, RecursionError)
"""The exceptions of `read` and `read_value` for a broken text."""

_TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_TRUTH = "tag:yaml.org,2002:bool"
_NUMBER = "tag:yaml.org,2002:float"
_WHOLE_NUMBER = "tag:yaml.org,2002:int"
_DATE = "tag:yaml.org,2002:timestamp"
_MAX_BITS = 1024
# Digits around an e, as long as a short commit: numbers are not written so.
_COMMIT = re.compile(r"(?=.{7})[0-9]+[eE][0-9]+\Z")


class _Loader(yaml.SafeLoader):
    """The safe loader by the rules of YAML 1.2, and without aliases.

    YAML 1.1 reads no, on and off as truth values, 1e-3 as a string and 10:15 as 615; in 1.2, `=` and `<<` are
    text too. Otherwise than there, 0123 stays text, which a whole number would shorten, and so do digits that
    look like a commit or exceed every float; 1_000 and 0b11 are whole numbers; and a date is one, which the
    schema refuses: it is to be in quotes. An alias may hold itself, or stand for 9^9 copies.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            problem = "an alias; write the value out, or keep it in a file that others name as `base`"
            raise ComposerError(None, None, problem, mark)
        return super().compose_node(parent, index)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return _TEXT if tag == _NUMBER and implicit[0] and _is_no_number(value) else tag

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        number = self.construct_yaml_int(node)
        if number.bit_length() > _MAX_BITS:
            problem = f"a whole number of {number.bit_length()} bits"
            raise ConstructorError(None, None, problem, node.start_mark)
        return number


def _is_no_number(value: str) -> bool:
    return bool(_COMMIT.match(value)) or (
        value[-1].isdigit() and math.isinf(float(value.replace("_", "")))  # 12e400, and not .inf
    )


# By first letter, in a dict that the class would share with its base.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TRUTH, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
_Loader.add_constructor(_WHOLE_NUMBER, _Loader.construct_whole_number)
_Loader.add_implicit_resolver(
    _WHOLE_NUMBER,
    re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _NUMBER,
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
    ),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, with quotes around text that YAML 1.1 or `_Loader` would read as something else."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if kind is yaml.ScalarNode and tag == _TEXT and implicit[0]:
            return _Loader("").resolve(kind, value, implicit)
        return tag


def dump(tree: Any) -> str:
    """Return plain values as YAML that `read` reads back equal."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_value(text: str) -> Any:
    """Read one YAML value."""
    return yaml.load(text, _Loader)


def read(text: str) -> tuple[object, dict[Key, int], list[tuple[Key, int]]]:
    """Read a YAML document.

    Returns:
        The content ({} if there is none), the line of each key of nested mappings, and the keys that stand in
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
    """Fill in the line of each key, and yield the keys that stand there twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
        key, line = (*prefix, str(name.value)), name.start_mark.line + 1
        if key in lines:
            yield key, line
        else:
            lines[key] = line
            yield from _locate(value, key, lines)
