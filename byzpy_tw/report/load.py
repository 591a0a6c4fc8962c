"""The report of a run from its folder, also of one that was killed or damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byzpy_tw.records.folder import CONFIG, ROUNDS, count_nodes, read_count, read_run
from byzpy_tw.records.membership import read_nodes
from byzpy_tw.records.metrics import described_chance
from byzpy_tw.report.history import RoundHistory
from byzpy_tw.report.model import RunReport
from byzpy_tw.report.setting import Setting
from byzpy_tw.rounds.placement import ServerState
from byzpy_tw.text import clean_value, encodable, printable


def read(path: Path) -> RunReport:
    """Return the report of the run in `path` up to damage; `RunDirectoryError` for no run."""
    run = read_run(path)
    report = begin(path.resolve().name, run.options)
    report.history.metrics, report.history.chance = run.metrics, described_chance(run.description)
    report.setting = Setting.of(run.description, report.history.counts.n)
    placement = run.description.get("placement")
    for record in run.reader:
        placement = record.get("placement", placement)
        report.add(record)
    report.servers = read_servers(placement)
    if why := run.reader.error or ("has no end" if run.reader.torn else ""):
        count = run.reader.count
        report.note = (
            f"Line {count + 1} of {ROUNDS} is no whole record of round {count} "
            f"(it {clean_value(why, 200)}): it and what comes after it are left out."
        )
    result = run.result or {}
    report.status = str(result.get("status") or "unfinished")
    report.error = None if result.get("error") is None else str(result["error"])
    report.result = result
    report.facts = collect_facts(run.description, result)
    return report


def begin(name: str, options: Mapping[str, Any]) -> RunReport:
    """Return a report without rounds; `RunDirectoryError` for `options` that no run has."""
    file = f"{printable(name)}: {CONFIG}"
    honest, byzantine = count_nodes(options, file)
    history = RoundHistory(honest, byzantine, max(1, read_count(options, "rounds", file)))
    return RunReport(encodable(name), options, history, rule_of(options))


def rule_of(options: Mapping[str, Any]) -> str:
    """Return the chain of rules of a run with these options."""
    before = options.get("pre_aggregator") or []
    chain = [*map(str, before if isinstance(before, (list, tuple)) else [before])]
    return encodable(" | ".join([*chain, str(options.get("aggregator", "the rule"))]))


def collect_facts(description: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, str]:
    """Return versions, digests and the hash of the parameters, by name."""
    versions, plugins = description.get("versions"), description.get("plugins")
    found = {
        **_origin(description.get("processes")),
        "ended": result.get("ended"),
        **{k: description.get(k) for k in ("run", "bits", "dimension", "data_digest")},
        **(versions if isinstance(versions, dict) else {}),
        **({f"plugin {k}": v for k, v in plugins.items()} if isinstance(plugins, dict) else {}),
        "parameters_sha256": result.get("parameters_sha256"),
    }
    return {str(k): str(v) for k, v in found.items() if v is not None}


def _origin(processes: Any) -> dict[str, Any]:
    """Return when and by whom a run was begun, and how often it was resumed."""
    found = (
        [one for one in processes if isinstance(one, dict)] if isinstance(processes, list) else []
    )
    if not found:
        return {}
    names = ("started", "host", "user", "certificate_subject", "certificate_serial")
    begun = {name.replace("_", " "): found[0].get(name) for name in names}
    resumed = ", ".join(clean_value(one.get("started"), 40) for one in found[1:][-10:])
    return {**begun, "resumed": resumed or None}


def read_servers(placement: Any) -> list[ServerState]:
    """Return the servers in a ``placement`` of config.json or of a record, if it is one."""
    if not isinstance(placement, dict):
        return []
    found = [(str(name), read_nodes(nodes)) for name, nodes in placement.items()]
    return [ServerState(name, nodes) for name, nodes in found if nodes is not None]
