"""Contradictions between the files of a run: its options, its records, its result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from byzpy_tw.config.run_config import (
    WEIGHTS,
    RunConfig,
    added_options,
    flag,
    from_dict,
    options_digest,
)
from byzpy_tw.errors import (
    AttackFailed,
    BadRuleOutput,
    CannotRecord,
    ConfigError,
    Diverged,
    RunDirectoryError,
)
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, RecordedRun, to_json
from byzpy_tw.records.schema import RESULT_FIELDS
from byzpy_tw.records.summary import RunSummary, summarize
from byzpy_tw.text import clean_value, printable

_STATUSES = ("finished", "paused", "interrupted", "diverged", "failed")
# Errors after the last round is on record: of its checkpoint, or a bug.
_LATE_ERRORS = (None, CannotRecord.code, BadRuleOutput.code, AttackFailed.code)


@frozen
class Problem:
    """A contradiction in a run's files; ``round`` where it is one round's."""

    what: str  # a word for programs
    text: str
    round: int | None = None


def find_damage(run: RecordedRun) -> list[Problem]:
    """Return the damaged line of rounds.jsonl, if there is one."""
    count, reader = len(run.rounds), run.reader
    more = f"; it and the {reader.skipped} after it are not looked at" if reader.skipped else ""
    return [Problem("record", f"{reader.damage}{more}", count)] if reader.damage else []


def recorded_config(run: RecordedRun) -> tuple[RunConfig, list[Problem]]:
    """Return the configuration that the records were made with, and its contradictions.

    Records have the digest of their options, and the options with each new digest; those
    of the first versions have neither, and config.json counts.  Only ``--rounds`` may have
    changed from one record to the next.
    """
    problems: list[Problem] = []
    saved, bits = run.options, run.description.get("bits")
    options = _recorded_options(run, problems)
    if options is None:
        known = {name: saved[name] for name in run.config.result_options if name in saved}
        if bits != options_digest(known):
            text = (
                f"{CONFIG}: its digest is not that of its options: one that changes bits was "
                "changed (these records do not tell which)"
            )
            problems.append(Problem("option", text))
        return run.config, problems
    newest = run.rounds[-1].get("bits")
    # Its own: a run that was resumed with more rounds, and ended before the next record.
    if bits not in (newest, options_digest(run.config.result_options)):
        text = f"{CONFIG} has bits {clean_value(bits)}, the newest record has {clean_value(newest)}"
        problems.append(Problem("digest", text))
    left_out = {name: value for name, value in added_options().items() if name in saved}
    if "weights_sha256" in options and saved.get("weights") not in WEIGHTS:
        left_out.pop("weights", None)  # a file, wherever it lies
    unused = {name for name in left_out if getattr(run.config, name) is None}
    for name, value in {**left_out, **options}.items():
        if name == "rounds" or (name in unused and name not in options):
            continue
        if saved.get(name) != value:
            text = (
                f"{CONFIG} has {flag(name)} {clean_value(saved.get(name))}, the records were made "
                f"with {flag(name)} {clean_value(value)}"
            )
            problems.append(Problem("option", text))
    try:
        return from_dict({**saved, **left_out, **options}), problems
    except (ConfigError, TypeError, AttributeError) as e:
        raise RunDirectoryError(
            f"{printable(run.path / ROUNDS)}: its options make no run: {clean_value(e, 300)}"
        ) from e


def _recorded_options(run: RecordedRun, problems: list[Problem]) -> dict[str, Any] | None:
    """Return the options of the records, with the last ``rounds``; None if they have none."""
    found: dict[str, Any] | None = None
    digest = ""
    for record in run.rounds:
        number, bits, options = record["round"], record.get("bits"), record.get("options")
        if bits is None and not digest:
            continue
        if isinstance(options, dict) and options_digest(options) == bits:
            if found is None or {**options, "rounds": 0} == {**found, "rounds": 0}:
                found, digest = options, bits
                continue
        if bits == digest:
            continue
        if not digest:
            text = f"round {number} carries a digest without the options that it is of"
            problems.append(Problem("digest", text, number))
            return None
        text = (
            f"round {number} carries the digest of another configuration "
            f"({clean_value(bits)}) than the rounds before it ({clean_value(digest)})"
        )
        problems.append(Problem("digest", text, number))
    return found


def compare_with_result(run: RecordedRun) -> Iterator[Problem]:
    """Yield the differences of result.json from the figures that the records give."""
    result = run.result
    if result is None:
        return
    summary = summarize(run.config, run.rounds, run.metrics)
    figures = json.loads(to_json(summary.figures()))
    for name, field in RESULT_FIELDS.items():
        if field.verified and name in result and result[name] != figures[name]:
            there, here = clean_value(result[name]), clean_value(figures[name])
            yield Problem("result", f"{RESULT} has {name} {there}, the records: {here}")
    for text in _check_end(run, result, summary):
        yield Problem("result", f"{RESULT} {text}")


def _check_end(run: RecordedRun, result: Mapping[str, Any], summary: RunSummary) -> Iterator[str]:
    """Yield the contradictions of how the run ended, in words that follow ``result.json``.

    The records of a run that ended early tell no more than the number of its rounds.
    """
    status, error, code = (result.get(name) for name in ("status", "error", "error_code"))
    done, planned = len(run.rounds), run.config.rounds
    rounds = f"{done} rounds are on record, {CONFIG} has {flag('rounds')} {planned}"
    end = f"says {clean_value(status)} ({clean_value(code)})"
    if status not in _STATUSES:
        known = f"{', '.join(_STATUSES[:-1])} or {_STATUSES[-1]}"
        yield f"has status {clean_value(status)}: a run is {known}"
    if status == "finished" and done != planned:
        yield f"says finished, and {rounds}"
    if status == "finished" and (error is not None or code is not None):
        yield f"says finished, and has the error {clean_value(code)}: {clean_value(error)}"
    elif error is None and (status in ("paused", "diverged", "failed") or code is not None):
        yield f"{end}, and has no error"
    elif status == "diverged" and code != Diverged.code:
        yield f"says diverged, and has error_code {clean_value(code)}"
    failures = summary.counts.attack_failures
    always_failed = failures is not None and failures.all_failed
    if code == AttackFailed.code and not (status == "failed" and always_failed):
        yield f"{end}, and not all calls of the attack failed"
    late = code in _LATE_ERRORS and status != "diverged"
    if done >= planned and status != "finished" and not late:
        yield f"{end}, and {rounds}: it came to its end"
