"""The pages of `make docs`."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.strict_python import STRICT_PYTHON
from tests.test_api import DOCUMENTED, MODULES

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.long


class Page(HTMLParser):
    """The anchors of a page, those with a docstring, and the files that it links to or shows."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: list[str] = []
        self.documented: set[str] = set()
        self.files: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        """Note the anchors of sections and methods, their docstrings, and the links."""
        values = dict(attrs)
        if values.get("id") and tag in ("section", "div"):
            self.anchors.append(values["id"])
        elif values.get("class") == "docstring" and self.anchors:
            self.documented.add(self.anchors[-1])
        address = values.get("href") if tag == "a" else values.get("src")
        if address and not re.match(r"https?:|data:|#|\$", address):
            self.files.add(address.partition("#")[0])


@pytest.fixture(scope="module", name="pages")
def _pages(tmp_path_factory):
    """Build all pages once, in a process of its own: pdoc resolves types in the modules themselves."""
    folder = tmp_path_factory.mktemp("docs")
    command = [*STRICT_PYTHON, "-m", "tests.support.docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {path: Page(path) for path in sorted(folder.rglob("*.html"))}, folder


def test_every_public_name_has_its_place_and_text(pages):
    """Those of each public module are on its page, the methods of the logger among them."""
    pages, folder = pages
    names = {name: "sowlog" for name in DOCUMENTED if name.startswith("sowlog.Logger.")}
    names |= {f"{module.__name__}.{name}": module.__name__ for module in MODULES for name in module.__all__}
    names |= {"sowlog.nnx.Metric": "sowlog.nnx", "sowlog.Logger.__call__": "sowlog"}
    for name, module in names.items():
        if folder / f"{name.replace('.', '/')}.html" not in pages:
            page = pages[folder / f"{module.replace('.', '/')}.html"]
            assert name.removeprefix(f"{module}.") in page.documented


def test_every_link_of_a_page_has_its_target(pages):
    """The links of the documents lead to pages or copied files."""
    pages, folder = pages
    assert {folder / "index.html", folder / "guide.html", folder / "guide" / "vae.html"} <= set(pages)
    for path, page in pages.items():
        assert [file for file in page.files if not (path.parent / file).exists()] == [], path
