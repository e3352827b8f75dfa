from sowlog._tree.identity import SIZE, ByIdentity


def test_equal_keys_are_apart_and_kept_alive():
    """A new tuple could have the id of one that is gone, and not its tags."""
    known, made = ByIdentity(), []
    for number in range(SIZE):
        key = (number // 2,)
        assert key not in known
        for _ in range(2):
            assert known.find(key, lambda key: made.append(key) or len(made)) == number + 1
    assert len(made) == len(known) == SIZE
    assert key in known
    assert (key[0],) not in known


def test_a_full_cache_is_cleared():
    """Layouts that change at each step must not fill the memory."""
    known, keys = ByIdentity(), [(number,) for number in range(SIZE + 1)]
    for key in keys:
        known[key] = None
    assert [key in known for key in keys] == [*[False] * SIZE, True]
    assert known.find(keys[-1], list) is None


def test_a_cache_may_be_cleared_while_a_value_is_made():
    """As by a family whose new tags are found to be in use."""
    known, keys = ByIdentity(), [("a",), ("b",)]
    known[keys[0]] = 1

    def make(key):
        known.clear()
        return 2

    assert known.find(keys[1], make) == 2
    assert [key in known for key in keys] == [False, True]
