"""Checks of options that are each valid alone, and together make no run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from byzpy_tw.errors import ConfigError

if TYPE_CHECKING:
    from byzpy_tw.config.run_config import RunConfig


def check_combination(config: RunConfig) -> None:
    """Raise `ConfigError` where options of `config` contradict each other."""
    _check_place(config)
    _check_servers(config)
    if config.replacement and config.batches != "draws":
        raise ConfigError(
            f"--replacement has no use with --batches {config.batches}, which has each example "
            "once an epoch: leave it out, or use --batches draws"
        )
    if not config.worker_momentum < 1:
        raise ConfigError(f"--worker-momentum must be below 1, got {config.worker_momentum}")
    if config.f >= config.n:
        raise ConfigError(
            f"--f {config.f} faulty nodes of n = {config.n} leaves none honest; use a smaller "
            "--f or more nodes"
        )
    _check_participants(config)


def _check_participants(config: RunConfig) -> None:
    asked, spare = config.participants or 0, config.over_sample
    drawn = f"--participants {asked}" + f" with --over-sample {spare}" * bool(spare)
    if asked and asked + spare > config.n:
        raise ConfigError(
            f"{drawn} draws {asked + spare} nodes in a round, and there are n = {config.n} "
            f"(--num-honest {config.num_honest}, --num-byz {config.num_byz}): use fewer "
            "participants or more nodes"
        )


def _check_place(config: RunConfig) -> None:
    given = [bool(config.remote_hosts), config.local is not None, config.in_process]
    if sum(given) != 1:
        raise ConfigError(
            "say where the nodes live, once: --remote-hosts tcp://HOST:PORT,..., "
            f"--local N, or --in-process (got {sum(given)} of them)"
        )


def _check_servers(config: RunConfig) -> None:
    servers = len(config.remote_hosts) or config.local
    if not servers:  # the nodes are in this process
        return
    if not 2 * config.heartbeat < config.round_timeout:
        raise ConfigError(
            f"--heartbeat-timeout {config.heartbeat:g} must be less than half of "
            f"--round-timeout {config.round_timeout:g}: or a round would give up on nodes "
            "whose server is about to be replaced"
        )
    if config.min_servers is not None and config.min_servers > servers:
        raise ConfigError(
            f"--min-servers must be at most {servers}, the number of servers, got "
            f"{config.min_servers}"
        )
    cap = config.max_nodes_per_server
    if cap is not None and cap * servers < config.n:
        raise ConfigError(
            f"--max-nodes-per-server {cap} on {servers} servers leaves no room for "
            f"n = {config.n} nodes; use more servers or a larger cap"
        )
