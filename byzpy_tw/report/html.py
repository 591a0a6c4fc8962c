"""One HTML file with everything in it: the data, the drawing and the style.

What comes from outside (names, events, errors) goes in as JSON that no parser of HTML
can take for markup, and is drawn by code that makes text of it.  Besides, the page
says what a browser may run: these two scripts and this style, by their hashes, and
nothing that comes over a network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

SCRIPTS = ("draw.js", "run.js")
STYLE = "page.css"


def read_asset(name: str) -> str:
    """The text of ``draw.js``, ``run.js`` or ``page.css``."""
    return (files("byzpy_tw.report") / name).read_text(encoding="utf-8")


def standalone_page(
    title: str, data: Mapping[str, Any], told: Sequence[str] = (),
    scripts: Sequence[str] = SCRIPTS,
) -> str:  # fmt: skip
    """A whole page about `data`, which the last of `scripts` draws.

    `told` is for readers without JavaScript.
    """
    code, style = [read_asset(name) for name in scripts], read_asset(STYLE)
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, code))}; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    body = "\n".join(
        [
            f'<script type="application/json" id="data">{script_json(data)}</script>',
            *(f"<script>{text}</script>" for text in code),
        ]
    )
    return _page(title, head, body, told)


def served_page(title: str, data_url: str) -> str:
    """The same page, for a server that has the files beside it, and data that changes."""
    head = f'<link rel="stylesheet" href="/{STYLE}">'
    scripts = "\n".join(f'<script src="/{name}"></script>' for name in SCRIPTS)
    body = f'<div id="follow" data-url="{html.escape(data_url)}"></div>\n{scripts}'
    return _page(title, head, body, [])


def script_json(data: Any) -> str:
    """`data` as JSON that may stand inside a script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # outside of strings there are none in JSON
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _page(title: str, head: str, body: str, told: Sequence[str]) -> str:
    without = "".join(f"<p>{html.escape(line)}</p>" for line in told)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        # A browser that finds no icon would ask for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n{head}\n</head>\n<body>\n"
        f'<main id="page"></main>\n<noscript>{without}<p>The curves need JavaScript, which '
        f"is in this page.</p></noscript>\n{body}\n</body>\n</html>\n"
    )
