import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from train import data
from train.config.data import DigitsData, TextData
from train.data import text as text_data
from train.data.examples import DataError


def text_file(folder: Path, size: int) -> Path:
    """Write `size` bytes of counting, in which no 9 bytes in a row come twice."""
    file = folder / "text.txt"
    file.write_text("".join(f"{number:05} " for number in range(size // 6 + 1))[:size])
    return file


def text(path: Path, **options: object) -> data.Dataset:
    return data.load(TextData.model_validate({"name": "text", "path": str(path), "length": 8, **options}))


@pytest.mark.parametrize("options", [DigitsData(name="digits"), TextData(name="text", max_bytes=100_000)])
def test_a_batch_is_a_pure_function_of_seed_and_step(options: DigitsData | TextData) -> None:
    """In any order, from another instance: the same; for another seed or step: another."""
    one, other = data.load(options), data.load(options)
    for name, array in one.batch(3, 7).items():
        other.batch(3, 8)
        assert np.array_equal(other.batch(3, 7)[name], array)
        assert not np.array_equal(one.batch(3, 8)[name], array)
        assert not np.array_equal(one.batch(4, 7)[name], array)
        assert not np.array_equal(one.batch(7, 3)[name], array)


def test_digits_are_those_of_scikit_learn() -> None:
    """All images of load_digits, each either in the training part or held out."""
    expected = datasets.load_digits()
    dataset = data.load(DigitsData(name="digits", batch_size=1437))
    train, held_out = dataset.batch(0, 0), dataset.held_out()
    images = np.concatenate([train["image"], held_out["image"][0]]).reshape(1797, 64)
    labels = np.concatenate([train["label"], held_out["label"][0]])
    rows = np.column_stack([images * 16, labels])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.column_stack([expected.data, expected.target])))


def test_digits_batches_have_their_shapes() -> None:
    """Pixels in 0 … 1, one label an image, and none twice in a batch."""
    batch = data.load(DigitsData(name="digits", batch_size=64)).batch(0, 0)
    assert batch["image"].shape == (64, 8, 8, 1)
    assert batch["image"].dtype == np.float32
    assert batch["image"].min() == 0
    assert batch["image"].max() == 1
    assert batch["label"].shape == (64,)
    assert batch["label"].dtype == np.int32
    assert len({image.tobytes() for image in batch["image"]}) == 64


def test_text_windows_are_pieces_of_the_training_part(tmp_path: Path) -> None:
    """Each sequence is length + 1 bytes in a row, none of them held out, and any place can come."""
    file = text_file(tmp_path, 1000)
    dataset = text(file, batch_size=500)
    places = {file.read_bytes().index(bytes(row)) for row in dataset.batch(0, 0)["tokens"]}
    assert dataset.batch(0, 0)["tokens"].shape == (500, 9)
    assert min(places) < 10
    assert 880 < max(places) <= 900 - 9
    assert len(places) > 300


def test_the_last_window_of_each_part_can_be_drawn(tmp_path: Path) -> None:
    """No byte is left out at the end."""
    file = text_file(tmp_path, 1000)
    content = file.read_bytes()
    dataset = text(file, batch_size=20_000, eval_batches=1)
    assert (
        max(content.index(bytes(row)) for row in np.unique(dataset.batch(0, 0)["tokens"], axis=0)) == 900 - 9
    )
    held_out = [content.index(bytes(row)) for row in np.unique(dataset.held_out()["tokens"][0], axis=0)]
    assert (min(held_out), max(held_out)) == (900, 1000 - 9)


def test_held_out_batches_are_stacked(tmp_path: Path) -> None:
    """One more axis in front, the number of batches."""
    dataset = text(text_file(tmp_path, 1000), batch_size=4, eval_batches=3)
    assert dataset.held_out()["tokens"].shape == (3, 4, 9)


def test_a_folder_is_read_in_an_order_of_its_names(tmp_path: Path) -> None:
    """Whatever the order in which the files were made; hidden and binary ones are left out."""
    folders = []
    for names in (["a.txt", "b/c.txt", "d.md"], ["d.md", "b/c.txt", "a.txt"]):
        folder = tmp_path / names[0]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{name} " * 100)
        (folder / ".hidden").write_text("hidden " * 100)
        (folder / "binary").write_bytes(b"binary\0" * 100)
        folders.append(folder)
    one, other = (text_data._read_text(TextData(name="text", path=str(folder))) for folder in folders)
    assert one == other
    assert len(one) == 100 * len("a.txt b/c.txt d.md ")
    assert b"hidden" not in one
    assert b"binary" not in one


def test_no_more_than_max_bytes_is_read(tmp_path: Path) -> None:
    """The limit holds to the byte."""
    file = text_file(tmp_path, 1000)
    assert (
        text_data._read_text(TextData(name="text", path=str(file), max_bytes=777)) == file.read_bytes()[:777]
    )


def test_the_default_text_is_python_source_of_the_standard_library() -> None:
    """Its own modules, not packages that were installed beside them."""
    options = TextData(name="text")
    names = {str(file) for file in text_data._text_files(options)}
    assert any(name.endswith("/argparse.py") for name in names)
    assert not any("site-packages" in name for name in names)
    assert len(text_data._read_text(options)) > 5_000_000


def test_text_too_short_for_a_sequence_is_refused(tmp_path: Path) -> None:
    """With the number of bytes, the number needed, and the setting to change."""
    file = text_file(tmp_path, 89)
    with pytest.raises(DataError, match=r"has 89 bytes.* 8 bytes need at least 90; lower data\.length"):
        text(file)
    text(text_file(tmp_path, 90))


def test_absent_text_is_refused(tmp_path: Path) -> None:
    """With the path as it was given."""
    with pytest.raises(DataError, match=r"data\.path=.*nowhere: no such file or folder"):
        text(tmp_path / "nowhere")


def test_data_does_not_import_jax_or_scikit_learn() -> None:
    """The digits are read in milliseconds."""
    code = (
        "import sys; from train import data; from train.config.data import DigitsData;"
        "data.load(DigitsData(name='digits'));"
        "sys.exit('jax' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
