"""Plain language: how sentences begin in the package, and how long the README is."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import markdown
from tests.docs.conftest import ROOT
from tests.docs.markdown import PAGES

PACKAGE = sorted(path for wing in ("esam_rt", "export", "engines") for path in (ROOT / wing).rglob("*.py"))
FORBIDDEN = re.compile(r"(?:^|[.!?] |\n\n)\s*(Of|What|Whether|Those)\s")
README_WORDS = 1000


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, other strings (messages and help) and comments, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield node.lineno, "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    comment: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1:  # comments in adjacent lines are one text
            if comment:
                yield last, " ".join(comment)
            comment = []
        comment.append(token.string.lstrip("# "))
        last = token.start[0]
    if comment:
        yield last, " ".join(comment)


def findings(source: str) -> list[str]:
    found = []
    for line, text in texts(source):
        one = re.sub(r"(?<!\n)\n(?!\n)\s*", " ", text)
        if match := FORBIDDEN.search(one):
            found.append(f"{line}: {one[match.start() : match.start() + 60].strip()!r}")
    return found


@pytest.mark.parametrize("path", PACKAGE, ids=markdown.name)
def test_no_sentence_begins_with_a_forbidden_word(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=markdown.name)
def test_no_sentence_of_a_page_begins_with_a_forbidden_word(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert FORBIDDEN.search(re.sub(r"(?<!\n)\n(?!\n)", " ", prose)) is None


@pytest.mark.parametrize(
    "source",
    ['"""Of a mask the area."""', "x = 1  # Whether it fits.", 'raise ValueError(f"{x}. What is it?")',
     "# Fine so far.\n# Those that stay."],
)  # fmt: skip
def test_forbidden_words_are_found(source: str) -> None:
    assert findings(source)


def test_other_words_are_not_found() -> None:
    assert findings('"""Return the offset. Often it is 0: Of course."""\nx = "Offer"  # if it is of this kind') == []


def test_readme_is_short() -> None:
    """Words outside of code blocks; tables count."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"\w[\w.,/-]*", text)) <= README_WORDS
