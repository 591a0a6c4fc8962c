"""One HTML file with everything in it: the data, the scripts and the style.

Text from outside (names, events, errors) goes in as JSON that no parser of HTML can take
for markup, and scripts turn it into text nodes.  A Content-Security-Policy allows these
scripts and styles only, by their hashes, and nothing that comes over a network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

CHART_SCRIPTS = ("vendor/uPlot.iife.min.js", "curves.js")
CHART_STYLES = ("vendor/uPlot.min.css", "colours.css", "curves.css")
SCRIPTS = (*CHART_SCRIPTS, "run.js")
STYLES = (*CHART_STYLES, "page.css")


@cache
def read_asset(name: str) -> str:
    """Return a script or stylesheet; a vendored one begins with its licence."""
    text = (files("byzpy_tw.report") / name).read_text(encoding="utf-8")
    if not name.startswith("vendor/u"):
        return text
    return f"/*! uPlot.\n{read_asset('vendor/LICENSE')}\n*/\n{text}"


def read_assets(names: Sequence[str]) -> str:
    return "\n".join(map(read_asset, names))


@cache
def page_colours(theme: str = "light") -> dict[str, str]:
    """Return the pages' colours, as #rrggbb by name, of the `theme` light or dark."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", read_asset("colours.css"))
    return {name: dark if theme == "dark" else light for name, light, dark in pairs}


def standalone_page(
    title: str, data: Mapping[str, Any], plain_text: Sequence[str] = (), *,
    scripts: Sequence[str] = SCRIPTS, body: str = "", rules: str = "",
) -> str:  # fmt: skip
    """Return a whole page about `data`, which the last of `scripts` draws below `body`.

    `plain_text` is for readers without JavaScript; `rules` is CSS for this page only.
    """
    code, style = [read_asset(name) for name in scripts], read_assets(STYLES) + rules
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, code))}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    told = "".join(f"<p>{html.escape(line)}</p>" for line in plain_text)
    elements = [f'<script type="application/json" id="data">{script_json(data)}</script>']
    elements += [f"<script>{text}</script>" for text in code]
    return _page(title=title, head=head, body=body, told=told, scripts="\n".join(elements))


def served_page(title: str, data_url: str) -> str:
    """Return the same page for a server that has the scripts, and data that changes."""
    elements = [f'<div id="follow" data-url="{html.escape(data_url)}"></div>']
    elements += [f'<script src="/{name}"></script>' for name in SCRIPTS]
    head = '<link rel="stylesheet" href="/page.css">'
    return _page(title=title, head=head, body="", told="", scripts="\n".join(elements))


def _page(*, title: str, **parts: str) -> str:
    return Template(read_asset("page.html")).substitute(title=html.escape(title), **parts)


def script_json(data: Any) -> str:
    """Return `data` as JSON that may stand inside a script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # Outside of strings there are none of these in JSON.
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
