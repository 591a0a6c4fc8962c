"""What a run's folder holds, in words: the reference is made of this.

A test compares it with what a run leaves, so that nothing is written that is not
told here, and nothing told that is not written.  Words in ``{}`` stand for what
differs from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping

FILES: Mapping[str, str] = {
    "config.json": "everything that is needed to repeat the run; written at its start",
    "rounds.jsonl": "a line of JSON for each round, written as soon as it is evaluated; the "
    "only file that grows",
    "result.json": "how the run ended; written at its end, however that came",
    "report.html": "the run as a page to look at, in one file; written at its end, and again by "
    "`python -m byzpy_tw report`",
    "checkpoint.{rounds}": "the run's state after that many rounds, in eight digits: "
    "parameters, momentum, what rules and attacks remember, probation.  Written whole, then "
    "renamed; begins with its own SHA-256.  Read with `weights_only=True`: it holds numbers "
    "and words, never code",
    "trainer.log": "what happened, with times; tracebacks of plugins that failed",
    "server-{number}.log": "the output of each server that `--local` started",
    ".lock": "locked by the process that writes here, whose number it holds",
}

CONFIG: Mapping[str, str] = {
    "config": "every option by its name, with `_` for `-`",
    "bits": "SHA-256 of the options that decide bits: runs that agree in it, in `versions` and "
    "in their membership end with the same parameters",
    "run": "the run's name to servers; random, and the same when it is resumed",
    "dimension": "`d`, the length of the parameters",
    "data_digest": "SHA-256 of the trainer's data",
    "data_digests": "that of each server's data; they differ with `--partition local` only",
    "trial": "digests of what the trial before round 0 found: `shards`, `classes` (and shape), "
    "`normalisation`, and `gradient` of two examples with its `loss` and `norms`",
    "versions": "of byzpy_tw, Python, torch, NumPy, the platform and its instruction set; "
    "`probe` is the SHA-256 of a fixed gradient as computed here",
    "plugins": "each distribution that offers plugins, with its version",
    "placement": "which nodes each server was given at the start",
}

ROUND: Mapping[str, str] = {
    "round": "its number, from 0",
    "seconds": "that it took, evaluation apart",
    "phases": "seconds by phase: `honest` (until the honest vectors were there), `byzantine`, "
    "`aggregate`, `step`",
    "loss": "mean loss of the accepted honest nodes, each on its own batch",
    "aggregate_norm": "norm of the aggregate",
    "norms": "norm of each vector that came whole, by node",
    "f": "the budget that the rule was run with",
    "selected": "nodes whose vectors went into the aggregate; null for a rule that does not "
    "choose between rows",
    "excluded": "nodes that the rule was given and did not select",
    "refused": "nodes that the rule was not given: `node`, `reason` (late, lost, failed, "
    "stale, malformed, not-finite, probation; not-asked in result.json alone) and `detail`; "
    "all others are the round's membership",
    "bytes_sent": "by the trainer in this round, as tensor frames; 0 in one process",
    "bytes_received": "the same, received",
    "foreseen_f": "the budget that attacks were told of, before Byzantine nodes were asked",
    "bits": "the `bits` of the configuration that the round was made with",
    "options": "the options that decide bits; only in the first record with these `bits`",
    "events": "what happened besides, in words: servers lost and back, nodes moved, "
    "probation; only where something did",
    "placement": "which nodes live on each server, as in config.json; only where there "
    "are `events`",
    "parameters_sha256": "of the parameters after the round's step",
    "test_loss": "on the test data; only in rounds that were evaluated",
    "accuracy": "on the test data, from 0 to 1; only in the same rounds",
}

RESULT: Mapping[str, str] = {
    "status": "finished, paused, interrupted, diverged or failed",
    "error": "what ended it early, or null",
    "error_code": "the code of that error, or null",
    "rounds": "that are on record",
    "final_accuracy": "of the last evaluation; null where there was none",
    "final_loss": "likewise, on the test data",
    "worst_accuracy": "over the last fifth of the evaluations: the best alone would flatter a "
    "run that collapsed",
    "best_accuracy": "over all of them",
    "refused": "for each node that was refused: how often, by reason",
    "attack_failures": "null where no attack call failed; else `failed` calls `of` so many, "
    "`probation` more that were not waited for because their nodes had failed before, and the "
    "`first` cause: such a run says nothing about its rules, or less than it seems to",
    "halted": "null, or the round that could not be aggregated: `round`, and `refused` as in a "
    "record; not-asked are Byzantine nodes where no honest vector came that they could be shown",
    "seconds_a_round": "mean of the rounds' `seconds`",
    "parameters_sha256": "of the final parameters",
    "seconds": "from start to end, over all processes of a run that was resumed",
    "bytes_sent": "by the trainer in all, as tensor frames",
    "bytes_received": "the same, received",
}

# file -> its entries
ENTRIES: Mapping[str, Mapping[str, str]] = {
    "config.json": CONFIG,
    "rounds.jsonl": ROUND,
    "result.json": RESULT,
}
