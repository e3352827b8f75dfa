from sowlog._tree.identity import SIZE, ByIdentity


def test_equal_keys_are_apart_and_kept_alive():
    """A new tuple could have the id of one that is gone, and not its tags."""
    known = ByIdentity()
    for number in range(SIZE):
        key = (number // 2,)
        assert key not in known
        known[key] = number
    assert known[key] == SIZE - 1
    assert (key[0],) not in known


def test_a_full_cache_is_cleared():
    """Layouts that change at each step must not fill the memory."""
    known, keys = ByIdentity(), [(number,) for number in range(SIZE + 1)]
    for key in keys:
        known[key] = None
    assert [key in known for key in keys] == [*[False] * SIZE, True]
