"""What a run left in its folder, read by somebody who trusts none of it.

Nothing is written and nothing is locked: the run may still be going on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.runs.config import RunConfig, digest_of, flag
from byzpy_tw.runs.record import CONFIG, RESULT, ROUNDS, read_object, to_json
from byzpy_tw.runs.resuming import merged
from byzpy_tw.runs.tally import Tally


@frozen
class Problem:
    """Something that is not as it must be; ``round`` where it is one round's."""

    what: str  # a word for programs
    text: str
    round: int | None = None


@frozen(eq=False)
class Left:
    """A run directory's contents.  Make one with `read`."""

    path: Path
    description: Mapping[str, Any]  # config.json
    config: RunConfig  # as config.json has it
    records: Sequence[Mapping[str, Any]]  # of rounds.jsonl, those that can be used
    result: Mapping[str, Any] | None  # result.json, if there is one
    problems: Sequence[Problem]  # with what cannot be used
    torn: bool = False  # whether the last line was never written whole

    def __len__(self) -> int:
        """Rounds that are on record."""
        return len(self.records)


def read(path: Path) -> Left:
    """What the run in `path` left; `RunDirectoryError` where there is none.

    Of damaged records, the ones before are there, and a problem.
    """
    description = read_object(path / CONFIG)
    saved = description.get("config")
    if not isinstance(saved, dict):
        raise RunDirectoryError(f"{path / CONFIG} has no configuration of this program's")
    try:
        config = merged(saved, {})
    except (ConfigError, TypeError, AttributeError) as e:
        raise RunDirectoryError(f"{path / CONFIG} is no configuration: {e}") from e
    result = read_object(path / RESULT) if (path / RESULT).exists() else None
    try:
        data = (path / ROUNDS).read_bytes()
    except OSError as e:
        raise RunDirectoryError(f"cannot read {path / ROUNDS}: {e.strerror or e}") from e
    records: list[Mapping[str, Any]] = []
    problems: list[Problem] = []
    lines = data.split(b"\n")
    torn = lines.pop() != b""  # what has no end yet was being written
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            why = _wrong(record, number, config.n)
        except (ValueError, RecursionError) as e:
            record, why = {}, f"is not JSON: {e}"
        if why:
            rest = len(lines) - number - 1
            after = f"; it and the {rest} after it are not looked at" if rest else ""
            text = f"line {number + 1} of {ROUNDS} {why}{after}"
            problems.append(Problem("record", text, number))
            break
        records.append(record)
    return Left(path, description, config, records, result, problems, torn)


def _wrong(record: Any, number: int, n: int) -> str:
    """Why `record` cannot be round `number`'s of a run of `n` nodes; empty where it can."""
    if not isinstance(record, dict) or record.get("round") != number:
        return f"is not the record of round {number}"
    digest, f, refused = (record.get(k) for k in ("parameters_sha256", "f", "refused"))
    if not isinstance(digest, str) or not isinstance(record.get("seconds"), (int, float)):
        return "lacks parameters_sha256 or seconds"
    if type(f) is not int or not 0 <= f < n:
        return f"has no f of a run of {n} nodes"
    if not isinstance(refused, list) or not all(
        isinstance(r, dict) and isinstance(r.get("reason"), str)
        and type(r.get("node")) is int and 0 <= r["node"] < n
        for r in refused
    ):  # fmt: skip
        return f"does not say which of the {n} nodes were refused"
    if len({r["node"] for r in refused}) == n:
        return "says that all nodes were refused"
    if "accuracy" in record and not isinstance(record["accuracy"], (int, float)):
        return "has an accuracy that is no number"
    return ""


def accepted(record: Mapping[str, Any], n: int) -> tuple[int, ...]:
    """The nodes whose vectors a round used, in order: the recorded membership."""
    out = {refused["node"] for refused in record["refused"]}
    return tuple(node for node in range(n) if node not in out)


# -- the configuration


def made_with(left: Left) -> tuple[RunConfig, list[Problem]]:
    """The configuration that the records were made with, and what contradicts it.

    The records' digest tells, and the options that go with it, where there are some;
    config.json where not.  Only ``--rounds`` may have changed on the way.
    """
    problems: list[Problem] = []
    saved = left.description["config"]
    options = _options(left, problems)
    if options is None:  # records of before they told
        known = {name: saved[name] for name in left.config.deciding if name in saved}
        if left.description.get("bits") != digest_of(known):
            text = (
                f"{CONFIG}: its digest is not that of its options: one that changes bits was "
                "changed (these records do not tell which)"
            )
            problems.append(Problem("option", text))
        return left.config, problems
    for name, value in options.items():
        if name != "rounds" and saved.get(name) != value:
            text = (
                f"{CONFIG} has {flag(name)} {shown(saved.get(name))}, the records were made "
                f"with {flag(name)} {shown(value)}"
            )
            problems.append(Problem("option", text))
    try:
        return merged({**saved, **options}, {}), problems
    except (ConfigError, TypeError, AttributeError) as e:
        raise RunDirectoryError(f"{left.path / ROUNDS}: its options make no run: {e}") from e


def _options(left: Left, problems: list[Problem]) -> dict[str, Any] | None:
    """Those that the records were made with, the last ``rounds`` of them."""
    found: dict[str, Any] | None = None
    digest = ""
    for record in left.records:
        number, told, options = record["round"], record.get("bits"), record.get("options")
        if told is None and not digest:
            continue
        if isinstance(options, dict) and digest_of(options) == told:
            same = found is None or {**options, "rounds": 0} == {**found, "rounds": 0}
            if same:
                found, digest = options, told
                continue
        if told != digest:
            if not digest:
                text = f"round {number} carries a digest without the options that it is of"
            else:
                text = (
                    f"round {number} carries the digest of another configuration "
                    f"({shown(told)}) than the rounds before it ({digest[:12]})"
                )
            problems.append(Problem("digest", text, number))
            if not digest:
                return None
    return found


def shown(value: Any, length: int = 120) -> str:
    """Something from a file, fit for a line on a terminal; of a hash, its beginning."""
    text = value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text[:length]).split())


# -- the result


def against_result(left: Left) -> Iterator[Problem]:
    """What result.json says that the records do not come to."""
    result, config = left.result, left.config
    if result is None:
        return
    tally = Tally()
    try:
        for record in left.records:
            tally.add(record)
    except (KeyError, TypeError) as e:
        last = tally.rounds - 1
        yield Problem("record", f"{ROUNDS}: round {last} lacks {e}", last)
        return
    for name, value in json.loads(to_json(tally.figures())).items():
        if name in result and name != "seconds_a_round" and result[name] != value:
            text = f"{RESULT} has {name} {shown(result[name])}, the records: {shown(value)}"
            yield Problem("result", text)
    if result.get("status") == "finished" and len(left) != config.rounds:
        text = (
            f"{RESULT} says finished, and {len(left)} rounds are on record, "
            f"{CONFIG} has {flag('rounds')} {config.rounds}"
        )
        yield Problem("result", text)


def at_home(config: RunConfig, data_root: str | None) -> RunConfig:
    """`config` with its nodes in this process, and its data in `data_root` if given."""
    return evolve(
        config, in_process=True, remote_hosts=(), local=None, min_servers=None, keys=None,
        max_nodes_per_server=None, heartbeat_timeout=None, strict=False,
        data_root=config.data_root if data_root is None else data_root,
    )  # fmt: skip
