"""Sphinx's settings. `make docs` builds the site into docs/_build/html and stops at warnings."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the source tree that the pages describe, not an installed one

project = "esam-rt"
author = "The esam-rt authors"
project_copyright = "The esam-rt authors, Apache-2.0"
try:
    release = installed_version("esam-rt")
except PackageNotFoundError:  # a source tree that was not installed
    from esam_rt import __version__ as release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
root_doc = "index"

html_theme = "furo"
html_title = f"esam-rt {release}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # links such as reliability.md#exit-codes

autodoc_default_options = {"special-members": "__call__"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
autodoc_class_signature = "mixed"

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


PUBLIC = ("", ".sources", ".sinks", ".run", ".evaluation", ".export", ".loading", ".integrations")


def load_public_names() -> None:
    """Import the names that the public packages import at first use: autodoc documents names that are there."""
    for name in PUBLIC:
        module = importlib.import_module(f"esam_rt{name}")
        for member in getattr(module, "__all__", ()):
            setattr(module, member, getattr(module, member))


_NDARRAY = re.compile(
    r"~?(?:numpy\.)?ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], ~?(?:numpy\.)?dtype\[~?(?:numpy\.)?(\w+)\]\]"
)

_ARRAY_LIKE = re.compile(
    r"[\w.~]*_Buffer \| [\w.~]*_SupportsArray\[[^|]*\] \| [\w.~]*_NestedSequence\[[^|]*\] \| "
    r"complex \| bytes \| str \| [\w.~]*_NestedSequence\[complex \| bytes \| str\]"
)


def shorten_signature(
    app: Any, what: str, name: str, obj: object, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write ``NDArray[float32]`` as in the source, and defaults that are made for each object as ``...``."""

    def short(text: str | None) -> str | None:
        text = text and _ARRAY_LIKE.sub("ArrayLike", _NDARRAY.sub(r"NDArray[\1]", text))
        return text and text.replace("<factory>", "...")

    return short(signature), short(returns)


def skip_repeated(app: Any, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave out names of a public package that the page of ``esam_rt`` documents."""
    import esam_rt

    is_repeated = what == "module" and name in esam_rt.__all__ and obj is getattr(esam_rt, name)
    return True if is_repeated and app.env.docname != "api/esam_rt" else None


def settings_table() -> str:
    """Make one Markdown table for each group of settings, from the fields of ``Settings``."""
    from esam_rt import settings

    tables: dict[str, list[str]] = {}
    for name, info in getattr(settings, "all_settings", dict)().items():
        default = "model's own" if info.default is None else str(info.default).lower()
        cells = (f"`{name}`", default, info.range, info.source, info.meaning)
        row = "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"
        tables.setdefault(name.partition(".")[0], []).append(row)
    head = "| Setting | Default | Range | Source | Meaning |\n|---|---|---|---|---|\n"
    return "\n\n".join(f"## {group}\n\n{head}" + "\n".join(rows) for group, rows in tables.items())


def setup(app: Any) -> None:
    """Replace the marker in settings.md when Sphinx reads the page."""

    load_public_names()

    def insert(_app: Any, docname: str, source: list[str]) -> None:
        if docname == "settings":
            source[0] = source[0].replace("<!-- settings -->", settings_table())

    app.connect("source-read", insert)
    app.connect("autodoc-skip-member", skip_repeated)
    app.connect("autodoc-process-signature", shorten_signature)
