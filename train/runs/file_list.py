"""The list of a checkpoint's files, with their sizes and checksums: orbax keeps none of arrays."""

from pathlib import Path

import crc32c
from pydantic import BaseModel, TypeAdapter

from train.system import files

NAME = "files.json"
_BLOCK = 1 << 20


class _File(BaseModel):
    """A file of a checkpoint: its bytes, and their CRC-32C."""

    size: int
    crc32c: int


_FORM = TypeAdapter(dict[str, _File])


def write(folder: Path) -> None:
    """Sync all files of a checkpoint, and write the list of their sizes and checksums beside them."""
    paths = [folder, *folder.rglob("*")]
    noted = {str(path.relative_to(folder)): _file(path) for path in paths if path.is_file()}
    for path in paths:
        files.sync_folder(path) if path.is_dir() else files.sync(path)
    files.write(folder / NAME, _FORM.dump_json(noted, indent=2).decode() + "\n")


def _file(path: Path) -> _File:
    checksum = 0
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            checksum = crc32c.crc32c(block, checksum)
    return _File(size=path.stat().st_size, crc32c=checksum)


def check(folder: Path) -> None:
    """Raise an error if files are missing, cut off or changed: orbax keeps no checksum of arrays."""
    for name, noted in _noted_files(folder).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"it has no file {name}")
        found = _file(folder / name)
        if found.size != noted.size:
            raise ValueError(f"its file {name} has {found.size} bytes, and had {noted.size}")
        if found.crc32c != noted.crc32c:
            raise ValueError(f"its file {name} has other bytes than were written")


def _noted_files(folder: Path) -> dict[str, _File]:
    try:
        return _FORM.validate_json(files.read(folder / NAME))
    except FileNotFoundError:
        raise FileNotFoundError(f"it has no file {NAME}") from None
    except ValueError:
        raise ValueError(f"its file {NAME} is damaged") from None
