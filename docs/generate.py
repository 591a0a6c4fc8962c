"""Writes docs/reference/ from the code that defines what it tells of.

    python docs/generate.py            write the pages
    python docs/generate.py --check    say which are out of date; exit code 1 if any is

Run it after a change to an option, a command, an error, a hook, a built-in name, an exit
code, an entry of a run's files, a public name or a module's first sentence.
tests/test_reference.py fails until then.  Nothing here names an option or an error: to change
what a page says, change the text beside the code.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "byzpy_tw"
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # to tell of this source, whatever is installed

import attrs

import byzpy_tw.__main__ as program
from byzpy_tw import errors, tap
from byzpy_tw.cli import train
from byzpy_tw.config import server
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import KINDS, hookspecs, load
from byzpy_tw.plugins.registry import Entry
from byzpy_tw.protocol.requests import WIRE_ERRORS
from byzpy_tw.records import schema

NOTE = "<!-- Written by docs/generate.py: change the code that it reads, then run it. -->\n"

_DEFAULT = re.compile(r"\s*\(default: ([^()]*(?:\([^()]*\)[^()]*)*)\)\s*$")


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    check, where = parser.parse_args(arguments).check, HERE / "reference"
    stale = False
    for name, text in pages().items():
        path = where / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        print(f"{path.relative_to(HERE.parent)} {'is out of date' if check else 'written'}")
        if not check:
            where.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    made = {
        "train.md": training_options(train.parser()),
        "server.md": server_options(tap.Options, server.server_options()),
        "commands.md": other_commands(program.COMMANDS),
        "errors.md": error_codes(errors.errors_by_code(), errors.EXIT_CODES),
        "hooks.md": hooks(hookspecs),
        "names.md": names(load(only=()).entries()),
        "files.md": files(schema.FILES, schema.FIELDS),
        "modules.md": modules((HERE / "explanation" / "architecture.md").read_text("utf-8")),
    }
    return {name: f"{NOTE}\n{text.rstrip()}\n" for name, text in made.items()}


# -- commands and their options ----------------------------------------------


def training_options(parser: argparse.ArgumentParser) -> str:
    """`python -m byzpy_tw.train`, section by section."""
    lines = [
        "# Options of a run",
        "",
        "`python -m byzpy_tw.train` takes these, and `config.json` holds them, with `_` for",
        "`-`. Where an option takes `NAME`, parameters may follow: `NAME:key=value,key=value`;",
        "[names.md](names.md) has the names and their parameters.",
        "",
        "*Bits* says whether the option decides the result's bits: two runs that agree in all",
        "that do, and in their membership, end with the same parameters. With `--resume`,",
        "those that do not may be given anew, and so may `--rounds`.",
        "",
        "In a TOML file and in Python the options have the same names, without `--`:",
        "[configuration.md](../configuration.md).",
    ]
    known = {option.name: option for option in attrs.fields(RunConfig)}
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
        if not actions:
            continue
        rows = []
        for action in actions:
            option = known.get(action.dest)
            bits = "" if option is None else "yes" if option.metadata["bits"] else "no"
            rows.append((_spelling(action), _default(action, option), bits, _help(action)))
        lines += ["", f"## {_title(group.title)}", ""]
        lines += _table(("option", "default", "bits", "meaning"), rows)
    return "\n".join([*lines, "", _exit_line(), ""])


def server_options(options: Any, fields: Iterable[tuple[str, Any]]) -> str:
    """`twistd byzpy-server`."""
    rows = []
    for key, option in fields:
        metadata, default = option.metadata, option.default
        flag, listed = isinstance(default, bool), isinstance(default, tuple)
        word = "" if flag else f" {metadata.get('metavar') or key.upper()}"
        text = metadata["help"].rstrip(".")
        told = _DEFAULT.search(text)
        shown = "off" if flag else "" if default is None or listed else f"`{default}`"
        help = f"{_DEFAULT.sub('', text)}."
        if (option.type or "").startswith(("int", "float")):
            help += f" {_sentence(str(metadata['constraint'](object())))}"
        rows.append((f"`--{key}{word}`", told.group(1) if told else shown, help))
    return "\n".join([
        "# Options of a server",
        "",
        _markdown(getattr(options, "longdesc", "")),
        "",
        "```sh",
        f"twistd [-n] [--pidfile FILE] [--logfile FILE] byzpy-server {options.synopsis}",
        "```",
        "",
        "What stands before `byzpy-server` is twistd's: `-n` stays in the foreground,",
        "`--pidfile=` writes none, `--logfile=-` logs to standard output; `twistd --help` has",
        "the rest.",
        "",
        *_table(("option", "default", "meaning"), rows),
        "",
    ])  # fmt: skip


def other_commands(commands: Mapping[str, Any]) -> str:
    """Everything that `python -m byzpy_tw` does."""
    lines = [
        "# Commands",
        "",
        "`python -m byzpy_tw COMMAND`; after an install also `byzpy-tw COMMAND`. Training is",
        "`python -m byzpy_tw.train` ([its options](train.md)), a server `twistd byzpy-server`",
        "([its options](server.md)).",
        "",
        *_table(
            ("command", "what it does"),
            [(f"[`{name}`](#{name})", command.HELP) for name, command in commands.items()],
        ),
    ]
    for name, command in commands.items():
        parser = argparse.ArgumentParser(prog=f"python -m byzpy_tw {name}", add_help=False)
        command.options(parser)
        lines += ["", f"## {name}", ""]
        lines += [f"{_sentence(command.HELP)}", ""]
        if parser.description:
            lines += [_markdown(parser.description), ""]
        actions = [a for a in parser._actions if a.help != argparse.SUPPRESS]
        rows = [(_spelling(a), _default(a, None), _help(a)) for a in actions]
        lines += _table(("argument", "default", "meaning"), rows)
        if parser.epilog:
            lines += ["", _sentence(_markdown(parser.epilog))]
    return "\n".join([*lines, "", _exit_line(), ""])


def _exit_line() -> str:
    return "Exit codes: [errors.md](errors.md#exit-codes)."


def _spelling(action: argparse.Action) -> str:
    """``--option VALUE`` as code."""
    names = action.option_strings
    word = action.metavar or (
        "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    )
    word = word if isinstance(word, str) else " ".join(word)
    if action.nargs == 0:
        word = ""
    elif action.nargs in ("+", "*"):
        word = f"{word} ..."
    if not names and action.nargs in ("?", "*"):
        word = f"[{word}]"
    return f"`{' '.join(filter(None, [', '.join(names), word]))}`"


def _default(action: argparse.Action, option: attrs.Attribute | None) -> str:
    """The default as the code has it, or as the help tells it."""
    told = _DEFAULT.search(_expanded(action))
    value = option.default if option is not None else None
    if value is not None and value != () and not isinstance(value, bool):
        return f"`{value}`"
    if told:
        return _markdown(told.group(1))
    if action.nargs == 0 and action.option_strings and action.dest not in ("help", "version"):
        return "off"
    return ""


def _help(action: argparse.Action) -> str:
    return _markdown(_DEFAULT.sub("", _expanded(action)))


def _expanded(action: argparse.Action) -> str:
    """The help text with argparse's own placeholders filled in."""
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")


# -- errors -------------------------------------------------------------------


def error_codes(codes: Mapping[str, type[errors.ByzpyTwError]], exits: Mapping[int, str]) -> str:
    """A section for each code: what happened, and what to do."""
    lines = [
        "# Errors and exit codes",
        "",
        "An error is one line: a code that never changes, the cause with its numbers and,",
        "where it depends on the case, what to do. `python -m byzpy_tw explain CODE` prints",
        "what stands here. In Python each is a class of `byzpy_tw.errors`;",
        "`byzpy_tw.ByzpyTwError` is the base of all.",
        "",
        *_table(
            ("code", "exit code", "cause"),
            [
                (f"[`{code}`](#{code.lower()})", str(kind.exit_code),
                 _markdown(errors.explanation(kind)[0].splitlines()[0]))
                for code, kind in codes.items()
            ],
        ),
        "",
        "## Exit codes",
        "",
        "Of `python -m byzpy_tw.train` and of each `python -m byzpy_tw` command. A run that",
        "has begun its rounds exits with 3, whatever error stopped it, unless it diverged.",
        "",
        *_table(("code", "meaning"), [(str(n), text) for n, text in exits.items()]),
    ]  # fmt: skip
    for code, kind in codes.items():
        bases = [b for b in kind.__bases__ if issubclass(b, Exception) and b is not Exception]
        facts = [f"`errors.{kind.__name__}`"]
        if bases:
            facts.append("a kind of " + " and ".join(f"`{b.__name__}`" for b in bases))
        facts.append(f"exit code {kind.exit_code}")
        if kind in WIRE_ERRORS:
            facts.append("may come from a server")
        cause, cure = errors.explanation(kind)
        lines += ["", f"## {code}", "", f"{', '.join(facts)}.", "", _paragraphs(cause)]
        lines += ["", f"**What to do:** {_markdown(cure)}"]
    return "\n".join([*lines, ""])


# -- plugins ------------------------------------------------------------------


def hooks(module: Any) -> str:
    """Every hook with its signature and contract."""
    lines = [
        "# Hooks",
        "",
        "A plugin is a module (or any object) with functions marked `@byzpy_tw.hookimpl`,",
        f"named by an entry point in the group `{hookspecs.GROUP}`. Here are the contracts;",
        "[../hooks.md](../hooks.md) explains each, with an example that runs.",
    ]
    found = inspect.getmembers(module, lambda thing: hasattr(thing, f"{hookspecs.GROUP}_spec"))
    found.sort(key=lambda pair: inspect.getsourcelines(pair[1])[1])
    for name, hook in found:
        lines += ["", f"## {name}", "", *_code(f"def {name}{_signature(hook)}: ..."), ""]
        lines += [_paragraphs(inspect.cleandoc(hook.__doc__ or ""))]
        lines += ["", f"[Explained, with an example](../hooks.md#{name})"]
    lines += ["", "## Registration", "", "What a `register_` hook returns a list of.", ""]
    made = hookspecs.Registration
    lines += [*_code(f"Registration{_signature(made).partition(' ->')[0]}"), ""]
    lines += [_paragraphs(inspect.cleandoc(made.__doc__ or ""))]
    return "\n".join([*lines, ""])


def _signature(thing: Any) -> str:
    return str(inspect.signature(thing)).replace("'", "")


def names(entries: Iterable[Entry]) -> str:
    """Every built-in name, by kind."""
    by_kind: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
    for entry in entries:
        by_kind[entry.kind].append(entry)
    lines = [
        "# Names",
        "",
        "What comes with this package; `python -m byzpy_tw plugins` also lists what plugins",
        "add. `f`, `q` and `chunk_size` are filled from the run's options unless given.",
        "A value is written after the name: `trimmed-mean:f=2`. Of words such as",
        "`init=mean|zero` the first is the default.",
    ]
    for kind, found in by_kind.items():
        plural = f"{kind[0].upper()}{kind[1:]}s"
        lines += ["", f"## {plural}", ""]
        shown, rule = kind == "attack", kind in ("aggregator", "pre-aggregator")
        head = (
            "name", *(["is shown"] if shown else []),
            *(["computed for", "guarantee for", "sense"] if rule else []), "parameters",
            "what it is",
        )  # fmt: skip
        if rule:
            lines += [
                "[Guarantees of rules](../security.md#guarantees-of-rules) says what these columns",
                "mean. A plugin's rule has them only in its methods `computable` and `guarantee`.",
                "",
            ]
        rows = []
        for entry in found:
            also = "".join(f", `{alias}`" for alias in entry.aliases)
            row = [f"`{entry.name}`{also}"]
            if shown:
                row.append(entry.factory().knowledge)
            if rule:
                row += attrs.astuple(entry.factory.conditions)
            rows.append((*row, _parameters(entry), _about(entry.factory)))
        lines += _table(head, rows)
        nones = [
            (f"`{entry.name}`", f"`{parameter.name}`", _markdown(parameter.none))
            for entry in found
            for parameter in entry.parameters.values()
            if parameter.none
        ]
        words = [
            (f"`{entry.name}`", f"`{parameter.name}={word}`", _markdown(meaning))
            for entry in found
            for parameter in entry.parameters.values()
            for word, meaning in parameter.meanings.items()
        ]
        if words:
            lines += ["", *_table(("name", "word", "stands for"), words)]
        if nones:
            lines += ["", *_table(("name", "parameter", "`none`, the default, stands for"), nones)]
    return "\n".join([*lines, ""])


def _parameters(entry: Entry) -> str:
    return ", ".join(f"`{parameter.text}`" for parameter in entry.parameters.values())


def _about(factory: Any) -> str:
    """The first paragraph of the docstring, and what it refers to."""
    text = inspect.cleandoc(factory.__doc__ or "")
    said = _markdown(text.split("\n\n")[0])
    _, found, source = text.partition("References\n----------\n")
    source = _markdown(source.split("\n\n")[0]).rstrip(".")
    return f"{said} *{source}.*" if found else said


# -- files --------------------------------------------------------------------


def files(found: Mapping[str, str], entries: Mapping[str, Mapping[str, schema.Field]]) -> str:
    """Return the page about a run's folder."""
    lines = [
        "# Files of a run",
        "",
        "In `--run-dir`, or `runs/DATE-TIME-RULE-ATTACK`. Numbers that are not finite are null",
        "in JSON. Readers should skip entries that they do not know.",
        "",
        *_table(("file", "what it holds"), [(f"`{n}`", text) for n, text in found.items()]),
    ]
    for name, fields in entries.items():
        lines += ["", f"## {name}", ""]
        lines += _table(("entry", "meaning"), map(_entry, fields.values()))
    return "\n".join([*lines, ""])


def _entry(field: schema.Field) -> tuple[str, str]:
    unit = f", {field.unit}" if field.unit else ""
    when = f"; only {field.when}" if field.when else ""
    return f"`{field.name}`{unit}", f"{field.meaning}{when}"


# -- modules ------------------------------------------------------------------

_SHOWN = 100  # characters of the names of a module's classes and functions
_HOLDERS = frozenset({"config", "base", "limits", "spec"})  # objects that have options
_OTHER_FILES = (".css", ".html", ".js", ".txt")
_LAYERS = re.compile(r"subgraph (\w+)_layer .*\n((?: .*\[.*\n)+?) +end")


def modules(architecture: str) -> str:
    """Return the page of all modules, in the order of the page `architecture`."""
    lines = [
        "# Modules",
        "",
        "Every module by the first sentence of its docstring, with its classes and functions,",
        "from the top layer down ([architecture](../explanation/architecture.md)); then",
        "[the modules that read each option](#options-and-the-modules-that-read-them). Paths are",
        "below `byzpy_tw/`. [CONTRIBUTING.md](../../CONTRIBUTING.md) says where a change begins.",
    ]
    for layer, names in _LAYERS.findall(architecture):
        tops = [PACKAGE / name for name in re.findall(r"\[(\w+)\]", names)]
        lines += ["", f"## {_title(layer)}"]
        alone = [path.with_suffix(".py") for path in tops if not path.is_dir()]
        if alone:
            lines += ["", *_module_table(alone)]
        for package in filter(Path.is_dir, tops):
            lines += ["", f"### {package.name}/", "", _first_sentence(package / "__init__.py"), ""]
            lines += _module_table(sorted(package.rglob("*.py")))
            others = [p for p in package.rglob("*.*") if p.suffix in _OTHER_FILES]
            if others:
                lines += ["", f"Other files: {', '.join(map(_link, sorted(others)))}."]
    rows = [
        *_readers(RunConfig, at_server=False),
        *_readers(server.ServerConfig, at_server=True),
        *_readers(server.Limits, at_server=True),
    ]
    lines += ["", "## Options, and the modules that read them", "", "Of a run, then of a server."]
    return "\n".join([*lines, "", *_table(("option", "read in"), rows), ""])


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_sentence(path: Path) -> str:
    text = (ast.get_docstring(_parsed(path)) or "").split("\n\n")[0]
    return re.split(r"(?<=\.)\s", _markdown(text), maxsplit=1)[0]


def _module_table(paths: Iterable[Path]) -> list[str]:
    """Return a row for each module, but for an ``__init__`` that only imports."""
    imports = (ast.Expr, ast.Import, ast.ImportFrom)
    rows = [
        (_link(path), _first_sentence(path), _public_names(path))
        for path in paths
        if path.stem != "__init__"
        or not all(isinstance(statement, imports) for statement in _parsed(path).body)
    ]
    return _table(("module", "contents", "classes and functions"), rows)


def _name(path: Path) -> str:
    return f"`{path.relative_to(PACKAGE).as_posix()}`"


def _link(path: Path) -> str:
    return f"[{_name(path)}](../../byzpy_tw/{path.relative_to(PACKAGE).as_posix()})"


def _public_names(path: Path) -> str:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    defined = [node.name for node in _parsed(path).body if isinstance(node, kinds)]
    names = [name for name in defined if not name.startswith("_")]
    shown = [name for i, name in enumerate(names) if len(", ".join(names[: i + 1])) <= _SHOWN]
    return ", ".join([*(f"`{name}`" for name in shown), *(["..."] if shown != names else [])])


def _readers(kind: type, *, at_server: bool) -> Iterator[tuple[str, str]]:
    """Yield each option that `kind` has as a field, and the modules that read it.

    One that is read through a property of the class alone has the property's readers.
    """
    home = Path(inspect.getsourcefile(kind) or "")
    [found] = [n for n in _parsed(home).body if getattr(n, "name", "") == kind.__name__]
    properties = [n for n in ast.walk(found) if isinstance(n, ast.FunctionDef)]
    for option in attrs.fields(kind):
        if not option.metadata:
            continue
        names = {option.name, option.metadata.get("node_field") or option.name}
        readers = _reading(names, at_server)
        if not readers:
            through = {p.name for p in properties if names & _attributes(p, frozenset({"self"}))}
            readers = _reading(through, at_server)
        key = option.metadata.get("key") or option.name.replace("_", "-")
        if readers:  # or it is read by its name alone
            yield f"`--{key}`", ", ".join(map(_name, readers))


def _reading(names: set[str], at_server: bool) -> list[Path]:
    """Return the modules that read an attribute in `names` of an object with options."""
    inside = (PACKAGE / "server", PACKAGE / "tap.py")
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name not in ("config", "testing")
        and at_server is any(path.is_relative_to(there) for there in inside)
        and names & _attributes(_parsed(path), _HOLDERS)
    ]


@cache
def _attributes(tree: ast.AST, holders: frozenset[str]) -> set[str]:
    """Return the attributes that `tree` reads of something called as one of `holders`."""
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    called = {read: getattr(read.value, "attr", getattr(read.value, "id", "")) for read in reads}
    return {read.attr for read, name in called.items() if name.strip("_") in holders}


# -- Markdown -----------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return list(_rows([head, ("---",) * len(head), *rows]))


def _rows(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    """A docstring's paragraph on one line, its code quoted as Markdown does."""
    return " ".join(text.replace("``", "`").split())


def _code(line: str) -> list[str]:
    return ["```python", line, "```"]


def _paragraphs(text: str) -> str:
    return "\n\n".join(map(_markdown, text.split("\n\n")))


def _title(text: str | None) -> str:
    text = (text or "").partition(" (")[0]
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


if __name__ == "__main__":
    sys.exit(main())
