import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from tests.train.config.test_experiment import errors_of, outcome_of, write
from train.config import fields
from train.config.experiment import Config

_KEYS = st.sampled_from([*{key.rpartition(".")[2] for key in fields.all_keys()}, "other", "a.b", ""])


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.sampled_from(["digits", "moe_lm", "text", "sgd", "adam", "cosine"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@hypothesis.given(tree=st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_tree_is_a_config_or_a_list_of_lines(
    tree: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a file holds, the answer is a configuration or errors of one line each."""
    file = write(tmp_path_factory.mktemp("fuzz"), yaml.safe_dump(tree))
    outcome = outcome_of(file)
    assert isinstance(outcome, Config) or (
        outcome and all("\n" not in line and line.startswith(str(file)) for line in outcome)
    )


@hypothesis.given(text=st.text(max_size=40), override=st.text(max_size=40))
def test_any_text_is_a_config_or_a_list_of_lines(
    text: str, override: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is typed, the answer is errors of one line and no other exception."""
    file = tmp_path_factory.mktemp("fuzz") / "experiment.yaml"
    file.write_bytes(text.encode())
    assert errors_of(file, override)
