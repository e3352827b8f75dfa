"""The import contracts: no private file is left out of them."""

import pkgutil

import pytest

import sowlog
from tests.support.generated import ARCHITECTURE, part_of
from tests.support.rooms import command_of, contracts, levels_by_package, picture_of


def private_modules():
    """Return the files and folders of sowlog that are private, outermost only: those with an underscore."""
    names = [module.name for module in pkgutil.walk_packages(sowlog.__path__, "sowlog.")]
    private = [name for name in names if name.rpartition(".")[2].startswith("_")]
    return {name for name in private if not name.rpartition(".")[2].startswith("__")}


def test_train_is_forbidden_every_private_room():
    """The contract lists each private room, so one that is new must be added."""
    (contract,) = (each for each in contracts() if each.get("source_modules") == ["train"])
    assert private_modules() == set(contract["forbidden_modules"])


def test_every_room_has_a_level():
    """The layers contract is exhaustive, and there is one for sowlog."""
    (contract,) = (each for each in contracts() if each.get("containers") == ["sowlog"])
    assert contract["exhaustive"]
    rooms = {module.name for module in pkgutil.iter_modules(sowlog.__path__)}
    assert rooms == {room for level in levels_by_package()["sowlog"] for room in level}


@pytest.mark.parametrize("package", ["sowlog", "train"])
def test_no_file_has_more_than_300_lines(package):
    """A longer one holds two subjects, each of which deserves a file."""
    files = sorted((ARCHITECTURE.parent / package).rglob("*.py"))
    lengths = {
        str(file.relative_to(ARCHITECTURE.parent)): len(file.read_text().splitlines()) for file in files
    }
    assert lengths
    assert {file: length for file, length in lengths.items() if length > 300} == {}


@pytest.mark.parametrize("package", levels_by_package())
def test_the_picture_of_the_rooms_is_that_of_the_contract(package):
    """ARCHITECTURE.md draws the contract of `make lint`; `python -m tests.support.rooms` draws it."""
    assert part_of(ARCHITECTURE.read_text(), command_of(package)) == picture_of(package)
