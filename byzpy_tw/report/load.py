"""A story from a run's folder, whatever became of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, read_json_object
from byzpy_tw.records.schema import parse_record
from byzpy_tw.report.history import RoundHistory
from byzpy_tw.report.model import RunReport
from byzpy_tw.rounds.placement import ServerState
from byzpy_tw.text import clean_value, encodable, printable

_MOST_NODES = 1_000_000  # as many as a run may have
_LONGEST_LINE = 1 << 28  # characters; a record of that many nodes is far shorter


def read(path: Path) -> RunReport:
    """The run in `path`, as far as its records are whole.

    Raises `RunDirectoryError` where there is none.
    """
    described = _object(path / CONFIG)
    options = _options(path, described)
    result = _object(path / RESULT) if (path / RESULT).is_file() else {}
    run_report = begin(path.resolve().name, options)
    _replay(path, run_report, described.get("placement"))
    run_report.status = str(result.get("status") or "unfinished")
    run_report.error = None if result.get("error") is None else str(result["error"])
    run_report.result = result
    run_report.facts = collect_facts(described, result)
    return run_report


def begin(name: str, options: Mapping[str, Any]) -> RunReport:
    """The story of a run before its first round.

    Raises `RunDirectoryError` where `options` are no configuration's.
    """
    honest, byzantine = _nodes(name, options)
    before = options.get("pre_aggregator") or []
    chain = [*map(str, before if isinstance(before, (list, tuple)) else [before])]
    rule = encodable(" | ".join([*chain, str(options.get("aggregator", "the rule"))]))
    history = RoundHistory(honest, byzantine, max(1, _whole(options, "rounds")))
    return RunReport(encodable(name), options, history, rule)


def collect_facts(described: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, str]:
    """What there is besides options: versions, digests, the hash of the parameters."""
    versions, plugins = described.get("versions"), described.get("plugins")
    found = {
        **{k: described.get(k) for k in ("run", "bits", "dimension", "data_digest")},
        **(versions if isinstance(versions, dict) else {}),
        **({f"plugin {k}": v for k, v in plugins.items()} if isinstance(plugins, dict) else {}),
        "parameters_sha256": result.get("parameters_sha256"),
    }
    return {str(k): str(v) for k, v in found.items() if v is not None}


def read_servers(placement: Any) -> list[ServerState]:
    """The places in a ``placement`` of config.json or of a record; none in what is not one."""
    if not isinstance(placement, dict):
        return []
    return [
        ServerState(str(name), [node for node in nodes if type(node) is int])
        for name, nodes in placement.items()
        if isinstance(nodes, list)
    ]


def _replay(path: Path, run_report: RunReport, placement: Any) -> None:
    """Feed `run_report` with the records, up to the first that is not whole."""
    for number, line in enumerate(_lines(path / ROUNDS)):
        try:
            record = parse_record(line, number, run_report.history.n)
        except ValueError as e:
            run_report.note = (
                f"Line {number + 1} of {ROUNDS} is no whole record of round {number} "
                f"(it {clean_value(e, 200)}): it and what comes after it are left out."
            )
            break
        placement = record.get("placement", placement)
        run_report.add(record)
    run_report.servers = read_servers(placement)


def iterate_rounds(path: Path) -> Iterator[dict[str, Any]]:
    """The records of the run in `path`, one by one, up to the first that is not whole.

    Raises `RunDirectoryError` where there is no run.
    """
    n = sum(_nodes(path.name, _options(path, _object(path / CONFIG))))
    for number, line in enumerate(_lines(path / ROUNDS)):
        try:
            record = parse_record(line, number, n)
        except ValueError:
            return
        yield record


def _lines(path: Path) -> Iterator[str]:
    try:
        # As `read_rounds` parts lines: a lone carriage return is none's end.
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            while line := file.readline(_LONGEST_LINE):
                yield line
    except FileNotFoundError:
        return
    except OSError as e:
        raise RunDirectoryError(f"cannot read {printable(path)}: {e.strerror or e}") from e


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunDirectoryError(
            f"{printable(path.parent)} holds no run (no {path.name}): name a run's folder, "
            "such as runs/DATE-TIME-RULE-ATTACK"
        )
    return read_json_object(path)


def _options(path: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    options = described.get("config")
    if not isinstance(options, dict):
        raise RunDirectoryError(f"{printable(path / CONFIG)} holds no run's configuration")
    return options


def _nodes(name: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """How many are honest, and how many Byzantine."""
    honest, byzantine = _whole(options, "num_honest"), _whole(options, "num_byz")
    if not 1 <= honest + byzantine <= _MOST_NODES:
        raise RunDirectoryError(f"{printable(name)}: {CONFIG} has {honest + byzantine} nodes")
    return honest, byzantine


def _whole(options: Mapping[str, Any], name: str) -> int:
    value = options.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise RunDirectoryError(
            f"{CONFIG}: {name} is {clean_value(value, 40)!r}, not a whole number"
        )
    return value
