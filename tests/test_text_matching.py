"""Every place of the package that looks into a text, with its reason: none reads a sentence.

What a program must know is a type or a field: of an event, an error, a record.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from tests.test_layers import modules

METHODS = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition"}
CLEANER = "text"  # the module that cleans foreign text
SENTENCES = {"str", "repr", "format_error", "describe", "describe_exception", "exception_text"}

OPTION = "a user's option: "
PEER = "what a client of the page asked for: "
FILE = "a file's content or name: "
CODE = "a name in Python code: "
PLUGIN = "a plugin's name: "
SHOWN = "for display, and decides nothing: "

# Where (module, and class or function), by which method, and why.
USES = {
    "__main__ _describe_unknown partition": OPTION + "its name, before a value",
    "__main__ _describe_unknown startswith": OPTION + "an option, or a value too many",
    "__main__ rpartition": CODE + "a command is called after its module",
    "cli.doctor main partition": SHOWN + "argparse's help without its first part",
    "cli.run_options CommandParser._refuse endswith": OPTION
        + "a file of options, given without --config",
    "config.paths expand_home startswith": OPTION + "~ and ~user in a path",
    "config.toml _parse re.search": OPTION + "the place of a number of thousands of digits",
    "config.toml _quote_line re.search": SHOWN + "the line that tomllib found wrong; before "
        "Python 3.14 its error has the number in its text alone",
    "datasets.array_files _open_npz endswith": FILE + "arrays in an archive",
    "datasets.array_files _open_npz removesuffix": FILE + "the name of an array in an archive",
    "datasets.arrays _names removeprefix": FILE + "the name of one of several arrays",
    "datasets.arrays _names startswith": FILE + "the name of one of several arrays",
    "datasets.cifar_files _describe_mismatch endswith": FILE + "a packed file",
    "datasets.tensors type_name removeprefix": SHOWN + "torch's name of a dtype",
    "datasets.image_folders _shown startswith": FILE + "hidden files and folders",
    "user_files describe_content removeprefix": FILE + "a byte-order mark",
    "user_files describe_content startswith": FILE + "first bytes of known formats",
    "datasets.mnist_files _IdxFiles._misplaced endswith": FILE + "a packed file",
    "datasets.mnist_files _IdxFiles._misplaced removesuffix": FILE + "a packed file",
    "datasets.mnist_files _describe_non_zip startswith": FILE + "first bytes of a zip archive",
    "errors explanation partition": CODE + "an error's docstring: cause and cure",
    "object_state _class_parts startswith": CODE + "attributes that are Python's own",
    "models.torchvision_models _make partition": CODE + "the family of an architecture's name",
    "models.weight_files _compare removeprefix": SHOWN + "torch's name of a dtype",
    "object_state _is_library partition": CODE + "the package of a module",
    "object_state _object_attributes startswith": CODE + "the package of a class",
    "output.event_log _sentence partition": CODE + "the first line of a class's docstring",
    "output.event_log _snake_case re.sub": CODE + "the name of a class of events",
    "output.web Root.answer partition": CODE + "the content type of prometheus_client",
    "server.log re.compile": SHOWN + "Twisted's own lines on a port, which have no field for it",
    "server.metrics MetricsPage.answer partition": CODE + "the content type of prometheus_client",
    "output.web_server WebServer.listen startswith": OPTION + "the endpoint of --web or --metrics",
    "output.web_server _names_loopback partition": PEER + "host and port of a Host header",
    "output.web_server _names_loopback startswith": PEER + "an IPv6 address of a Host header",
    "output.web_server parse_endpoint partition": OPTION + "the endpoint of --web or --metrics",
    "plugin_code _innermost_line partition": CODE + "the package of a module",
    "plugin_code _innermost_line startswith": CODE + "code without a file, such as <string>",
    "plugins.contracts PluginAttack.__getattr__ startswith": CODE + "private attributes",
    "plugins.distributions canonical_name re.sub": PLUGIN + "a distribution's, as pip spells it",
    "plugins.hookspecs _check_name re.fullmatch": PLUGIN + "its spelling",
    "plugins.hookspecs _check_name re.sub": PLUGIN + "a better spelling",
    "plugins.naming parse partition": OPTION + "NAME:key=value",
    "plugins.naming re.compile": OPTION + "NAME:key=value",
    "plugins.plugin_files PluginFile.module re.sub": FILE + "a file's name, as a module's",
    "plugins.plugin_files re.compile": FILE + "the name of a file of Python code",
    "protocol.keygen re.compile": OPTION + "a server's name",
    "protocol.keys _parse_pem endswith": FILE + "the kind of a block of PEM",
    "protocol.keys re.compile": FILE + "blocks of PEM",
    "records.folder RoundReader.__iter__ endswith": FILE + "a line that is being written",
    "records.folder re.compile": FILE + "names of checkpoints",
    "records.schema re.compile": FILE + "a digest",
    "records.membership address_of partition": FILE + "a server's address, before its key's name",
    "report.html page_colours re.findall": CODE + "the tokens of a style sheet of ours",
    "report.html read_asset startswith": FILE + "a vendored script of the page",
    "scaffold.writing check re.fullmatch": OPTION + "a plugin's name",
    "scaffold.writing check re.sub": OPTION + "a better name",
    "scaffold.writing files partition": FILE + "a template's parts",
    "scaffold.writing files re.split": FILE + "a template's parts",
    "sweep.arithmetic re.compile": OPTION + "names of options in arithmetic",
    "sweep.impossible _reason removeprefix": SHOWN + "a rule's name that would stand twice",
    "sweep.blades_study _Reader._known rpartition": OPTION + "a class of Blades by its path",
    "sweep.byzfl_config re.compile": FILE + "a folder's name, made from options",
    "sweep.plan folder_of re.sub": FILE + "a folder's name, made from options",
    "sweep.query _fixed partition": OPTION + "an axis and its value",
    "sweep.selection find_metric removeprefix": "a metric's name, with or without the prefix that "
    "it is made with",
    "sweep.text _folded partition": SHOWN + "a rule's name on two lines",
    "sweep.text notes removeprefix": SHOWN + "a rule's name that would stand twice in a line",
    "tap _parameter partition": CODE + "the type of an option's field",
    "tasks.metric Metric.is_of_validation startswith": "a metric's name: the prefix that it is "
    "made with",
    "tasks.metric Metric.is_share endswith": "a metric's format: a share in percent, such as .2%",
    "tasks.metric _check_format re.fullmatch": "a metric's format: its spelling",
    "tasks.metric _check_name re.fullmatch": PLUGIN + "a metric's, its spelling",
    "testing.conformance examine rpartition": CODE + "the name of a test",
    "trainer.local_servers _ServerProcess.childDataReceived endswith": "a line of JSON is whole",
    "transports.memory Memory.parse removeprefix": OPTION + "the name of a listener",
    "transports.guarded PluginTransport.parse partition": OPTION + "the scheme of an address",
    "transports.table is_built_in partition": OPTION + "the scheme of an address",
    "transports.table parse_address partition": OPTION + "the scheme of an address",
    "transports.tcp _parse_ip partition": "a peer's IP address from its socket",
    "transports.tcp parse_host_port partition": OPTION + "a server's address",
    "transports.tcp parse_host_port removeprefix": OPTION + "a server's address",
    "transports.tcp parse_host_port rpartition": OPTION + "a server's address",
    "transports.tcp parse_host_port startswith": OPTION + "a server's address",
    "user_files re.compile": OPTION + "the name of files, and no path",
    "vectors _check_alike removeprefix": SHOWN + "torch's name of a dtype",
    "workers.device check_device partition": OPTION + "cuda:1",
    "workers.device open_device partition": SHOWN + "the first line of torch's reason",
    "workers.model_checks check_buffers endswith": CODE + "torch's name of a buffer",
}  # fmt: skip

# Modules that look for words in an error's text, and why.
SEARCHED = {
    "models.building": "torch's errors about its meta device have no class of their own; either "
        "way an error is raised, with advice or without",
    "workers.out_of_memory": "torch's error about the memory of a CPU has no class of its own; "
        "either way an error is raised, with advice or without",
}  # fmt: skip


def uses(node: ast.AST, place: str) -> Iterator[str]:
    """Yield the place and the method of each look into a text below `node`."""
    for child in ast.iter_child_nodes(node):
        is_scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        inside = f"{place}.{child.name}" if is_scope else place
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute):
            of, method = ast.unparse(child.func.value), child.func.attr
            if of == "re" or (method in METHODS and of != "np"):
                yield f"{place} {'re.' * (of == 're')}{method}"
        yield from uses(child, inside)


def found_in(name: str, tree: ast.AST) -> set[str]:
    """Return the uses in the module `name`, as the table has them."""
    return {f"{name} {use.strip('.')}".replace("  ", " ") for use in uses(tree, "")}


def searches(tree: ast.AST) -> Iterator[int]:
    """Yield the line of each ``... in str(error)`` and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for operator, right in zip(node.ops, node.comparators):
                membership = isinstance(operator, ast.In | ast.NotIn)
                if membership and isinstance(right, ast.Call):
                    if ast.unparse(right.func) in SENTENCES:
                        yield node.lineno


class TextMatchingTests(SynchronousTestCase):
    def test_each_has_a_reason(self) -> None:
        """A new look into a text is listed with its reason, and one that is gone is not."""
        found: set[str] = set()
        for name, tree in modules().items():
            if name != CLEANER:
                found |= found_in(name, tree)
        self.assertEqual(found - set(USES), set(), "decide by a type or a field, or list it")
        self.assertEqual(set(USES) - found, set(), "these are gone: take them off the list")

    def test_no_error_is_searched(self) -> None:
        """Nothing asks whether words are in the text of an error of ours, or of an event."""
        found = [name for name, tree in modules().items() for _ in searches(tree)]
        self.assertEqual(found, list(SEARCHED))

    def test_expressions_by_their_module(self) -> None:
        """A function of `re` is called as such, or this test would not see it."""
        for name, tree in modules().items():
            for node in ast.walk(tree):
                self.assertFalse(isinstance(node, ast.ImportFrom) and node.module == "re", name)

    def test_finds(self) -> None:
        """The checks find what they look for."""
        source = (
            "import re\nX = re.compile('a')\nclass A:\n    def f(self, e):\n"
            "        np.partition(e, 1)\n        return str(e).startswith('no') or 'b' in str(e)\n"
        )
        tree = ast.parse(source)
        self.assertEqual(found_in("m", tree), {"m re.compile", "m A.f startswith"})
        self.assertEqual(list(searches(tree)), [6])
