"""HTML pages of results: names stay text, and the browser runs no script but the page's own."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from jinja2 import Environment, StrictUndefined

_PLACE = '<meta charset="utf-8">\n'
_META = '<meta http-equiv="Content-Security-Policy" content="{{ content_security_policy }}">\n'


def render(template: str, **values: Any) -> str:
    """Fill a template in, with a Content-Security-Policy.

    The policy allows the template's own ``<script>`` and ``<style>`` by their hashes, and images and scripts of the
    page's own folder. Browsers refuse everything else: other scripts, attributes such as ``onerror``, and addresses in
    a network.

    Args:
        template: HTML for jinja2. It has one ``<script>`` and one ``<style>``, without values in them.
        **values: Values of the template. Texts are escaped.

    Returns:
        The page.
    """
    script, style = (_hash(template, tag) for tag in ("script", "style"))
    # Pages on disk: Chromium takes 'self' for all files, other browsers take it for none.
    policy = (
        f"default-src 'none'; script-src {script} 'self' file:; style-src {style}; img-src 'self' file: data:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template.replace(_PLACE, _PLACE + _META, 1))
    return page.render(content_security_policy=policy, **values)


def _hash(template: str, tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
