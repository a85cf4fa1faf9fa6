"""The policy of HTML pages that esam-rt writes, as a browser reads it, and a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN_SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


class _Policy(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.before: list[str] = []  # tags before the policy: it does not hold for them
        self.policy: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if self.policy is None:
            if values.get("http-equiv") == "Content-Security-Policy":
                self.policy = values["content"]
            else:
                self.before.append(tag)


def check_policy(page: bytes) -> None:
    """The page is UTF-8. Its policy stands first and allows its own script and style alone, by their hashes."""
    text = page.decode("utf-8")
    parser = _Policy()
    parser.feed(text)
    assert parser.before == ["html", "head", "meta"]
    assert parser.policy is not None
    directives = {words[0]: words[1:] for words in (part.split() for part in parser.policy.split(";"))}
    assert directives["default-src"] == ["'none'"]
    assert directives["base-uri"] == directives["form-action"] == ["'none'"]
    assert directives["script-src"] == [_hash(text, "script"), "'self'", "file:"]
    assert directives["style-src"] == [_hash(text, "style")]
    assert directives["img-src"] == ["'self'", "file:", "data:"]
    assert "unsafe" not in parser.policy and "http" not in parser.policy


def _hash(text: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def shown_by_chromium(page: Path, profile: Path, fragment: str = "") -> tuple[str, str]:
    """The document after its scripts have run, and what was refused."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", f"{page.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "violates" in line)
