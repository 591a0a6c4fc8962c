"""What a run left in its folder, read by somebody who trusts none of it.

Nothing is written and nothing is locked: the run may still be going on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run import RunConfig, flag, from_dict, options_digest
from byzpy_tw.errors import (
    AttackFailed,
    BadRuleOutput,
    CannotRecord,
    ConfigError,
    Diverged,
    RunDirectoryError,
)
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, read_json_object, read_rounds, to_json
from byzpy_tw.records.resume import check_options, merge_config
from byzpy_tw.records.summary import RunSummary, summarize
from byzpy_tw.text import clean_value, printable

_ENDS = ("finished", "paused", "interrupted", "diverged", "failed")
# What may still go wrong once the last round is on record: its checkpoint, or a bug.
_AT_THE_END = (None, CannotRecord.code, BadRuleOutput.code, AttackFailed.code)


@frozen
class Problem:
    """Something that is not as it must be; ``round`` where it is one round's."""

    what: str  # a word for programs
    text: str
    round: int | None = None


@frozen(eq=False)
class RecordedRun:
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


def read(path: Path) -> RecordedRun:
    """What the run in `path` left; `RunDirectoryError` where there is none.

    Of damaged records, the ones before are there, and a problem.
    """
    description = read_json_object(path / CONFIG)
    config = from_dict(check_options(path, description))
    result = read_json_object(path / RESULT) if (path / RESULT).exists() else None
    found = read_rounds(path, config.n)
    problems: list[Problem] = []
    if found.damage:
        after = f"; it and the {found.after} after it are not looked at" if found.after else ""
        problems.append(Problem("record", f"{found.damage}{after}", len(found)))
    return RecordedRun(path, description, config, found.rounds, result, problems, found.torn)


def accepted_nodes(record: Mapping[str, Any], n: int) -> tuple[int, ...]:
    """The nodes whose vectors a round used, in order: the recorded membership."""
    out = {refused["node"] for refused in record["refused"]}
    return tuple(node for node in range(n) if node not in out)


# -- the configuration


def recorded_config(left: RecordedRun) -> tuple[RunConfig, list[Problem]]:
    """The configuration that the records were made with, and what contradicts it.

    The records' digest tells, and the options that go with it, where there are some;
    config.json where not.  Only ``--rounds`` may have changed on the way.
    """
    problems: list[Problem] = []
    saved = left.description["config"]
    options = _options(left, problems)
    if options is None:  # records of before they told
        known = {name: saved[name] for name in left.config.result_options if name in saved}
        if left.description.get("bits") != options_digest(known):
            text = (
                f"{CONFIG}: its digest is not that of its options: one that changes bits was "
                "changed (these records do not tell which)"
            )
            problems.append(Problem("option", text))
        return left.config, problems
    bits, newest = left.description.get("bits"), left.records[-1].get("bits")
    # Its own: a run that was resumed with more rounds, and ended before the next record.
    if bits not in (newest, options_digest(left.config.result_options)):
        text = f"{CONFIG} has bits {clean_value(bits)}, the newest record has {clean_value(newest)}"
        problems.append(Problem("digest", text))
    for name, value in options.items():
        if name != "rounds" and saved.get(name) != value:
            text = (
                f"{CONFIG} has {flag(name)} {clean_value(saved.get(name))}, the records were made "
                f"with {flag(name)} {clean_value(value)}"
            )
            problems.append(Problem("option", text))
    try:
        return merge_config({**saved, **options}, {}), problems
    except (ConfigError, TypeError, AttributeError) as e:
        raise RunDirectoryError(
            f"{printable(left.path / ROUNDS)}: its options make no run: {clean_value(e, 300)}"
        ) from e


def _options(left: RecordedRun, problems: list[Problem]) -> dict[str, Any] | None:
    """Those that the records were made with, the last ``rounds`` of them."""
    found: dict[str, Any] | None = None
    digest = ""
    for record in left.records:
        number, told, options = record["round"], record.get("bits"), record.get("options")
        if told is None and not digest:
            continue
        if isinstance(options, dict) and options_digest(options) == told:
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
                    f"({clean_value(told)}) than the rounds before it ({digest[:12]})"
                )
            problems.append(Problem("digest", text, number))
            if not digest:
                return None
    return found


# -- the result


def compare_with_result(left: RecordedRun) -> Iterator[Problem]:
    """What result.json says that the records do not come to."""
    result = left.result
    if result is None:
        return
    tally = summarize(left.config)
    for record in left.records:
        tally.add(record)
    for name, value in json.loads(to_json(tally.figures())).items():
        if name in result and name != "seconds_a_round" and result[name] != value:
            text = (
                f"{RESULT} has {name} {clean_value(result[name])}, "
                f"the records: {clean_value(value)}"
            )
            yield Problem("result", text)
    for text in _no_such_end(left, result, tally):
        yield Problem("result", f"{RESULT} {text}")


def _no_such_end(left: RecordedRun, result: Mapping[str, Any], tally: RunSummary) -> Iterator[str]:
    """What of the end that `result` tells cannot have been, in words that follow its name.

    Of a run that ended early the records tell no more than how far it came.
    """
    status, error, code = (result.get(name) for name in ("status", "error", "error_code"))
    done, planned = len(left), left.config.rounds
    told = f"{done} rounds are on record, {CONFIG} has {flag('rounds')} {planned}"
    if status not in _ENDS:
        yield f"has status {clean_value(status)}: a run is {', '.join(_ENDS[:-1])} or {_ENDS[-1]}"
    if status == "finished" and done != planned:
        yield f"says finished, and {told}"
    if status == "finished" and (error is not None or code is not None):
        yield f"says finished, and has the error {clean_value(code)}: {clean_value(error)}"
    elif error is None and (status in ("paused", "diverged", "failed") or code is not None):
        yield f"says {clean_value(status)} ({clean_value(code)}), and has no error"
    elif status == "diverged" and code != Diverged.code:
        yield f"says diverged, and has error_code {clean_value(code)}"
    failures = tally.attack.failures
    if code == AttackFailed.code and (status != "failed" or failures is None or not failures.total):
        yield (
            f"says {clean_value(status)} ({clean_value(code)}), "
            "and not all calls of the attack failed"
        )
    if (
        done >= planned
        and status != "finished"
        and (status == "diverged" or code not in _AT_THE_END)
    ):
        yield f"says {clean_value(status)} ({clean_value(code)}), and {told}: it came to its end"


def config_in_process(config: RunConfig, data_root: str | None) -> RunConfig:
    """`config` with its nodes in this process, and its data in `data_root` if given."""
    return evolve(
        config, in_process=True, remote_hosts=(), local=None, min_servers=None, keys=None,
        max_nodes_per_server=None, heartbeat_timeout=None, strict=False,
        data_root=str(absolute(config.data_root if data_root is None else data_root)),
    )  # fmt: skip
