import os
import threading
from pathlib import Path

import pytest

from train.system import files


def test_a_file_is_whole_and_durable_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is synced, then renamed, then its folder is synced."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        order.append(f"synced {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'folder'}")
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        order.append(f"renamed {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(Path, "replace", lambda path, new: renamed(path, new))
    folder = tmp_path / "folder"
    folder.mkdir()
    files.write(folder / "a.json", "new")
    assert order == ["synced .part", "renamed a.json", "synced folder"]
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    assert (folder / "a.json").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Neither through the file's own name nor by appending to it."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a", ".a.part", "log"):
        (tmp_path / name).symlink_to(victim)
    files.write(tmp_path / "a", "new")
    assert files.read(tmp_path / "a") == "new"
    with pytest.raises(OSError, match="symbolic links"):
        files.open_regular(tmp_path / "log", "ab")
    assert victim.read_text() == "precious"


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """And no part of the new one."""
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        files.write(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.timeout(30)
def test_what_is_no_regular_file_is_an_error_at_once(tmp_path: Path) -> None:
    """A FIFO would be waited for, a device has no end."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"(?i)not a regular file|is a directory"):
            files.read(path)
    with pytest.raises(OSError, match=r"No such device|Not a regular file"):
        files.open_regular(tmp_path / "fifo", "ab")


@pytest.mark.timeout(30)
def test_a_stream_is_read_to_its_end_or_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a shell's <(command), however late it writes; not from a pipe that nothing comes through."""
    os.mkfifo(tmp_path / "fifo")
    writing = threading.Thread(target=lambda: (tmp_path / "fifo").write_text("x" * 200_000))
    writing.start()
    assert files.read_stream(tmp_path / "fifo") == "x" * 200_000
    writing.join()
    assert files.read_stream(Path("/dev/null")) == ""
    with pytest.raises(ValueError, match="it has more than 5,000,000 bytes; give a smaller file"):
        files.read_stream(Path("/dev/zero"), limit=5_000_000)
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    with pytest.raises(ValueError, match=r"nothing came through it for 0\.2 s"):
        files.read_stream(tmp_path / "fifo")
