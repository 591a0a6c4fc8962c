"""The diagram in docs/explanation/architecture.md, drawn from the package's imports.

``python -m tests.architecture`` writes it anew; `test_layers` fails where it is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.test_layers import LAYERS, imports, modules, top

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "architecture.md"
BLOCK = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)

# Groups of layers, from the top down, as the page and the design name them.
GROUPS = (
    ("doors", ("__main__", "train", "tap")),
    ("commands", ("cli", "scaffold", "testing", "sweep", "api")),
    ("shells", ("trainer", "server")),
    ("outputs", ("output",)),
    ("connection", ("protocol", "transports", "scheduling", "processes")),
    ("records", ("audit", "records", "report")),
    ("decisions", ("rounds",)),
    ("algorithms", ("algorithms",)),
    ("configuration", ("config",)),
    ("workers", ("workers",)),
    ("plugins", ("objects", "plugins")),
    ("rules", ("attacks", "preaggregators", "aggregators", "datasets", "models", "partitions",
               "optimizers", "tasks")),
    ("kernels", ("kernels",)),
    ("ground", ("batches", "code_names", "console", "log_tail", "plugin_code", "seeds",
                "user_files", "vectors", "global_random", "object_state", "parameters", "text",
                "files", "events", "errors")),
)  # fmt: skip
DEPRECATED = {"", "runs"}  # the package itself, and names of 0.1

Edge = tuple[str, str]


@cache
def dependencies() -> set[Edge]:
    """Return each pair (importer, imported) of packages, all imports counted."""
    found = set()
    for name, tree in modules().items():
        here = name.split(".")[0]
        tops = {top(dotted) for dotted, _ in imports(name, tree)}
        found |= {(here, there) for there in tops if there}
    return {(a, b) for a, b in found if a != b and not {a, b} & DEPRECATED}


def reduced(edges: set[Edge]) -> set[Edge]:
    """Leave out what follows from the rest: an import of B where something imported has B."""
    down = {(a, b) for a, b in edges if LAYERS[b] < LAYERS[a]}

    @cache
    def reachable(name: str) -> set[str]:
        below = {b for a, b in down if a == name}
        return below.union(*map(reachable, below))

    implied = {(a, c) for a in LAYERS for b in {b for x, b in down if x == a} for c in reachable(b)}
    return down - implied


def diagram() -> str:
    """Return the page's diagram, in Mermaid's language."""
    return "\n".join([*_lines(), ""])


def _lines() -> Iterator[str]:
    edges = dependencies()
    yield "flowchart TD"
    for title, names in GROUPS:
        yield f"    subgraph {title}_layer [{title}]"
        yield from (f"        {name.strip('_')}[{name}]" for name in names)
        yield "    end"
    order = [name for _, names in GROUPS for name in names]
    for a, b in sorted(reduced(edges), key=lambda edge: (*map(order.index, edge),)):
        yield f"    {a.strip('_')} --> {b.strip('_')}"


def main() -> None:
    PAGE.write_text(BLOCK.sub(lambda _: diagram(), PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
