"""The pages of `make docs`: the documents and the guide, and the public names from their docstrings.

    python -m tests.support.docs build/docs

pdoc renders them. A warning of pdoc, and a link to a file that does not exist, is an error.
"""

import importlib
import inspect
import os
import re
import shutil
import sys
import types
import typing
import warnings
from pathlib import Path

import jax  # noqa: F401 - the facade then holds all of its names, not those of a reader of runs
import pdoc.doc
import pdoc.doc_ast
import pdoc.doc_types
import pdoc.render

import sowlog

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "tests" / "guide"
MODULES = ("sowlog", "sowlog.adapters", "sowlog.alerts", "sowlog.nnx", "sowlog.testing", "sowlog.writers")
DOCUMENTS = {
    ROOT / "README.md": "index",
    GUIDE / "README.md": "guide",
    ROOT / "ARCHITECTURE.md": "architecture",
    ROOT / "CHANGELOG.md": "changelog",
    ROOT / "tests" / "benchmarks" / "README.md": "benchmarks",
    **{path: f"guide.{path.stem}" for path in sorted(GUIDE.glob("[a-z]*.md"))},
}
TEMPLATES = Path(__file__).parent / "pdoc"
_TITLES = {"index": "README", "guide": "Guide", **{name: name for name in MODULES}}
_TITLES |= {"architecture": "Design", "changelog": "Changes"}
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")


def build(folder: Path) -> None:
    """Write the pages to a folder.

    Raises:
        Warning: pdoc cannot resolve a name or an annotation.
        FileNotFoundError: A document links to a file that does not exist.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pages = {name: _page_of_document(path, name, folder) for path, name in DOCUMENTS.items()}
        pages |= {name: _page_of_module(name) for name in MODULES}
        pdoc.render.configure(docformat="google", show_source=False, template_directory=TEMPLATES)
        pdoc.render.env.globals["main_pages"] = {name: _main_pages(name) for name in pages}
        for name, page in pages.items():
            place = folder / _address(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(pdoc.render.html_module(page, pages))
        (folder / "search.js").write_text(pdoc.render.search_index(pages))


def _address(name: str) -> str:
    return f"{name.replace('.', '/')}.html"


def _main_pages(page: str) -> list[tuple[str, str]]:
    """Return the addresses, as seen from a page, and titles of the main pages."""
    start = Path(_address(page)).parent
    return [(os.path.relpath(_address(name), start), title) for name, title in _TITLES.items()]


def _page_of_module(name: str) -> pdoc.doc.Module:
    module = importlib.import_module(name)
    for kind in filter(inspect.isclass, vars(module).values()):
        if kind.__module__ == name:
            _show_source(kind)
    page = pdoc.doc.Module(module)
    for member in page.variables:
        # A reducer is an object: its class documents it.
        if isinstance(member.default_value, sowlog.Reducer):
            member.docstring = inspect.cleandoc(type(member.default_value).__doc__ or "")
            member.default_value = pdoc.doc_types.empty
    for kind in page.classes:
        # A method of a private base is one of the public class.
        inherited = [member for member in kind.members.values() if _is_private(member.taken_from[0])]
        kind.own_members += [member for member in inherited if member not in kind.own_members]
        for member in kind.own_members:
            if member.name == "__call__":
                member.docstring += "\n\n@public"  # pdoc's mark: it leaves out names with an underscore
    return page


def _is_private(module: str) -> bool:
    return module.startswith("sowlog.") and module not in MODULES


def _show_source(kind: type) -> None:
    """Let pdoc find the source and the types of a public class.

    It looks in the module that the class shows, which is the one that users import it from. So types are
    resolved here; and the source is read here, of which pdoc keeps a cache.
    """
    members = (getattr(member, "fget", inspect.unwrap(member)) for member in vars(kind).values())
    functions = [member for member in members if inspect.isfunction(member) and member.__module__ != "typing"]
    for function in functions:
        function.__annotations__ = typing.get_type_hints(function, localns=vars(sowlog))
    if functions:
        namespace = functions[0].__globals__
        public, kind.__module__ = kind.__module__, namespace["__name__"]
        written = pdoc.doc_ast.walk_tree(kind).annotations
        kind.__module__ = public
        own = inspect.get_annotations(kind)
        # The attributes that a constructor annotates; an assignment without a type is no string.
        more = {name: text for name, text in written.items() if isinstance(text, str) and name not in own}
        holder = types.SimpleNamespace(__annotations__=more)
        kind.__annotations__ = own | typing.get_type_hints(holder, namespace)


def _page_of_document(path: Path, name: str, folder: Path) -> pdoc.doc.Module:
    """Return the page of a Markdown file; pdoc has pages of modules alone, so it is a module's docstring."""

    def address(match: re.Match[str]) -> str:
        target = (path.parent / match[0]).resolve()
        place = _address(DOCUMENTS[target]) if target in DOCUMENTS else _copy(target, folder)
        return os.path.relpath(place, Path(_address(name)).parent)

    module = types.ModuleType(name, _LINK.sub(address, path.read_text()))
    module.__docformat__ = "markdown"
    return pdoc.doc.Module(module)


def _copy(file: Path, folder: Path) -> str:
    """Copy a file that a document shows or links to, and return its place in the folder."""
    place = str(file.relative_to(ROOT))
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / place)
    return place


if __name__ == "__main__":
    build(Path(sys.argv[1]))
