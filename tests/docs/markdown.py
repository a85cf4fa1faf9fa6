"""Code blocks of the Markdown files: README.md and docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.docs.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
_BLOCK = re.compile(
    r"(?:^<!-- snippet: (?P<needs>[^>]*?) -->\n)?^```(?P<kind>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: The word after the fence, "" for a shell block.
        text: The lines between the fences.
        needs: The mark above the block: ``<!-- snippet: needs a GPU -->``. Empty without a mark.
        line: Line of the fence, from 1.
    """

    kind: str
    text: str
    needs: str
    line: int


def blocks(page: Path, kind: str) -> list[Block]:
    """The blocks of one kind."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("kind")) + 1
        found.append(Block(match["kind"], match["text"], match["needs"] or "", line))
    return [block for block in found if block.kind == kind]


def name(page: Path) -> str:
    """A page's path from the root."""
    return page.relative_to(ROOT).as_posix()
