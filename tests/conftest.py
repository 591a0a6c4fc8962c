"""Settings for all tests: hypothesis without deadlines, coverage, and `--no-skips`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import settings

# Run by test_plugins_0_1 in a process of their own: today's samples have the same module names.
collect_ignore = ["plugins_0_1"]

# Machines that others use too are slow at times.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail where a test skips, except for tests marked gpu",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Suspend coverage, also of child processes, during tests marked `simulator` or `slow`.

    The simulator shall not decide what counts as covered; slow tests would take half as long again.
    """
    if not any(map(item.get_closest_marker, ("simulator", "slow"))):
        return (yield)
    from tests.warm import MEASURED

    started = {name: os.environ.pop(name) for name in MEASURED if name in os.environ}
    measured = _running_coverage() if started else None
    if measured is not None:
        measured.stop()
    try:
        return (yield)
    finally:
        os.environ.update(started)
        if measured is not None:
            measured.start()


@pytest.fixture(autouse=True)
def _forked_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fork the processes of `byzpy_tw.run`, but in the tests that are about them."""
    from tests.warm import forked_runs

    with nullcontext() if request.path.stem == "test_run_from_python" else forked_runs():
        yield


def _running_coverage() -> Any:
    from coverage import Coverage

    return Coverage.current()


def _skipped(config: pytest.Config) -> list[str]:
    """Return each forbidden skip with its reason; none without `--no-skips`."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not config.getoption("--no-skips") or reporter is None or hasattr(config, "workerinput"):
        return []
    return [
        f"{report.nodeid}: {report.longrepr[2] if report.longrepr else ''}"
        for report in reporter.stats.get("skipped", [])
        if "gpu" not in report.keywords
    ]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if skipped := _skipped(config):
        terminalreporter.section("skipped, but --no-skips was given", red=True)
        for line in skipped:
            terminalreporter.line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
