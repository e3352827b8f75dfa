"""Trees of states: nested dicts, as Flax returns them, and the tags of their leaves."""

import functools
from collections.abc import Iterator
from typing import Any, TypeGuard

import jax

from sowlog._reduce import ambient
from sowlog._reduce.state import State, broadcast, check_intact
from sowlog._tree.layout import Packed, is_packed

_INDEX_DIGITS = 2


def is_state(leaf: Any) -> TypeGuard[State]:
    """Return whether a node of a tree is a state, which is a leaf."""
    return isinstance(leaf, State)


def is_leaf(node: Any) -> TypeGuard[State | Packed]:
    """Return whether a node of a tree is a state or a packed tree: their arrays alone are no metrics."""
    # Both classes are final, and isinstance costs three times as much, at every node of a logged tree.
    return type(node) is State or type(node) is Packed


def leaves_by_tag(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield (tag, leaf): the path joined by "/", and a state, a packed tree or an ordinary leaf.

    Positions in tuples and lists (Flax's default collects a value per call in a tuple) are indices: "x/00".
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]:
        yield _join_path(path), leaf


def flatten(tree: Any) -> tuple[tuple[str, ...], list[Any]]:
    """Return the tags and leaves of a tree, as `leaves_by_tag` pairs them; equal structures share the tags.

    Raises:
        TypeError: The tree is None, or the keys of a dict have no order.
    """
    if tree is None:
        raise TypeError(
            'the metrics are None, the result of a function without a return: give a dict, {"loss": value}; '
            "{} has no metrics."
        )
    try:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_leaf)
    except (TypeError, ValueError) as error:
        if "key" not in str(error):
            raise
        raise TypeError(
            "a dict of metrics has keys of several types, which have no order: make each a str, "
            "{str(key): value for key, value in metrics.items()}."
        ) from error
    tags = _tags_of(structure)
    return tuple(tag for tag, _ in leaves_by_tag(tree)) if tags is None else tags, leaves


@functools.lru_cache(maxsize=256)
def _tags_of(structure: Any) -> tuple[str, ...] | None:
    """Return the tags of a structure; None if an equal one may have other tags (the keys 1 and True)."""
    places = structure.unflatten(range(structure.num_leaves))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(places)[0]]
    settled = all(_is_settled(key) for path in paths for key in path)
    return tuple(map(_join_path, paths)) if settled else None


def _is_settled(key: Any) -> bool:
    match key:
        case jax.tree_util.DictKey(key=name):
            return isinstance(name, str)
        case jax.tree_util.SequenceKey() | jax.tree_util.GetAttrKey() | jax.tree_util.FlattenedIndexKey():
            return True
        case _:
            return False


def index_tags(tag: str, shape: tuple[int, ...]) -> list[str]:
    """Return the tags of an array's elements in row-major order, zero-padded so that they sort as numbers.

    Example:
        >>> index_tags("load", (3,))
        ['load/00', 'load/01', 'load/02']
    """
    tags = [tag]
    for size in shape:
        tags = [join(prefix, padded_index(index, size)) for prefix in tags for index in range(size)]
    return tags


def join(prefix: str, name: str) -> str:
    """Return the tag of a name under a prefix; an empty part adds nothing."""
    return f"{prefix}/{name}" if prefix and name else prefix or name


def padded_index(index: int, size: int) -> str:
    """Return an index as text with as many digits as the largest index of `size`, at least two."""
    return str(index).zfill(max(_INDEX_DIGITS, len(str(size - 1))))


def merge(a: Any, b: Any) -> Any:
    """Return the tree of merged states of two trees of one structure.

    Args:
        a: a tree of states, for example `updates["metrics"]` of one microbatch.
        b: the tree of the next microbatch.

    Returns:
        A tree of the same structure.

    Raises:
        ValueError: Only one of the trees has a state; the message names it.
        TypeError: A leaf is not a state, so its merge is undefined.

    Example:
        >>> import sowlog
        >>> a, b = ({"loss": sowlog.mean.of(x)} for x in (1.0, 3.0))
        >>> sowlog.merge(a, b)
        {'loss': State(mean, 2.0)}
    """
    _check_same_tags(a, b)
    return jax.tree_util.tree_map_with_path(_merge_leaf, a, b, is_leaf=is_leaf)


def empty_like(tree: Any) -> Any:
    """Return a tree of empty states with the structure, shapes and dtypes of `tree`.

    It is the start of a `lax.scan` over microbatches, where zeros would be wrong (the max of negative values
    is not 0).

    Args:
        tree: a tree of states, of arrays or of `jax.ShapeDtypeStruct`s, as from `jax.eval_shape` of a step.

    Returns:
        A tree of the same structure, in which nothing is sown.

    Raises:
        TypeError: A leaf is not a state, so its empty value is undefined.

    Example:
        >>> import sowlog
        >>> metrics = {"norm": sowlog.max.of(-4.0)}
        >>> sowlog.empty_like(metrics)
        {'norm': State(max, nothing sown)}
        >>> sowlog.merge(sowlog.empty_like(metrics), metrics)
        {'norm': State(max, -4.0)}
    """
    return jax.tree_util.tree_map_with_path(_empty_leaf, tree, is_leaf=is_leaf)


def unstack(tree: Any) -> list[Any]:
    """Return a tree of arrays with one leading axis as a list of trees without it."""
    size = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(size)]


def check_states(tree: Any) -> None:
    """Raise if a leaf of a tree is not a state, or if arithmetic has changed it; the error names it.

    Raises:
        TypeError: The merge of the leaf is undefined.
    """
    jax.tree_util.tree_map_with_path(_check_state, tree, is_leaf=is_leaf)


def _check_state(path: Any, leaf: Any) -> None:
    if not is_state(leaf):
        raise TypeError(_not_a_state_message(path, leaf))
    check_intact(leaf, _path_tag(path))


def _merge_leaf(path: Any, a: Any, b: Any) -> State:
    for leaf in (a, b):
        _check_state(path, leaf)
    try:
        return a.merge(b)
    except (TypeError, ValueError) as error:
        error.add_note(f"while merging {_path_tag(path)}")
        raise


def _empty_leaf(path: Any, leaf: Any) -> State:
    _check_state(path, leaf)
    start = broadcast(leaf.reducer.init_fn(), leaf.seen.shape)
    return ambient.varying_like(start.under(leaf.note), leaf)


def _check_same_tags(a: Any, b: Any) -> None:
    tags_a, tags_b = ({tag for tag, _ in leaves_by_tag(tree)} for tree in (a, b))
    if tags_a != tags_b:
        differing = [f"only the first has {', '.join(sorted(tags_a - tags_b))}"] if tags_a - tags_b else []
        differing += [f"only the second has {', '.join(sorted(tags_b - tags_a))}"] if tags_b - tags_a else []
        raise ValueError(
            f"the trees to merge differ: {'; '.join(differing)}. "
            "Start from sowlog.empty_like(tree) of a whole step, not from {}."
        )


def _not_a_state_message(path: Any, leaf: Any) -> str:
    if is_packed(leaf):
        return (
            f"{_path_tag(path)} is a packed tree, which holds results: they do not merge. Merge the states "
            "(or all_reduce, accumulate them) and pack last: `sowlog.pack(sowlog.merge(a, b))`."
        )
    return (
        f"{_path_tag(path)} is {type(leaf).__name__}, not a state, so how it accumulates is unknown: "
        "write sowlog.mean.of(value) (or sum, max, last ...) where it enters the tree."
    )


def _path_tag(path: Any) -> str:
    return _join_path(path) or "the tree"


def _join_path(path: Any) -> str:
    return "/".join(_key_name(key) for key in path)


def _key_name(key: Any) -> str:
    match key:
        case jax.tree_util.DictKey(key=name) | jax.tree_util.FlattenedIndexKey(key=name):
            # Equal keys have one name: a str that is a member of an Enum is its text.
            return str.__str__(name) if isinstance(name, str) else str(name)
        case jax.tree_util.SequenceKey(idx=index):
            return str(index).zfill(_INDEX_DIGITS)
        case jax.tree_util.GetAttrKey(name=name):
            return name
        case _:
            return str(key)
