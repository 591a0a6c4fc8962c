"""The life of a trainer: one process after another, on one run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import Registry
from byzpy_tw.records.folder import RunDirectory, read_run
from byzpy_tw.records.resume import ResumePoint, finished_rounds, new_resume_point, reopen
from byzpy_tw.trainer.training import initial_config_json
from tests.simulation.cluster import TRAINER
from tests.simulation.event_loop import EventLoop
from tests.simulation.folder import Folder
from tests.simulation.network import Network
from tests.simulation.process import VirtualProcess
from tests.simulation.trainer import SimulatedTrainer, with_fixed_token

SETTLING = 1.0  # seconds of a process after its last line


@define(eq=False)
class TrainerLifecycle:
    """Starts the trainer with `begin`, and resumes one that ends early, at most `resumes` times."""

    loop: EventLoop
    network: Network
    registry: Registry
    config: RunConfig
    path: Path
    speed: float
    resumes: int
    resume_delay: float  # seconds until somebody resumes it
    prepare: Callable[[SimulatedTrainer], None] = field(default=lambda trainer: None)
    trainers: list[SimulatedTrainer] = field(factory=list, init=False)
    left: list[str] = field(factory=list, init=False)  # what processes left behind
    over: bool = field(default=False, init=False)
    _gone: set[int] = field(factory=set, init=False)  # those that are counted, by number

    @property
    def current(self) -> SimulatedTrainer:
        """The process that is there, or was last."""
        return self.trainers[-1]

    def begin(self) -> None:
        """Start a new run, as `trainer.run` does."""
        directory, begun = RunDirectory.create(self.path), with_fixed_token(new_resume_point())
        directory.write_config(initial_config_json(self.config, begun))
        self._start(self.config, directory, begun)

    def resume(self) -> None:
        """Resume the run, as `trainer.run` does."""
        said: list[str] = []
        config, directory, begun = reopen(self.path, {}, said.append)
        if said:
            self.left.append(f"a checkpoint is damaged: {said}")
        if finished_rounds(read_run(self.path)) == config.rounds:
            directory.close()
            self.over = True
            return
        self._start(config, directory, begun)

    def _start(self, config: RunConfig, directory: RunDirectory, begun: ResumePoint) -> None:
        number = len(self.trainers) + 1
        self.network.boot(TRAINER)
        process = VirtualProcess(self.loop, self.network, f"t.{number}", TRAINER)
        trainer = SimulatedTrainer(
            process, config, self.registry, Folder(directory), begun, self.speed, self._ended
        )
        self.trainers.append(trainer)
        self.loop.note(process.name, f"begins with round {begun.round}")
        self.prepare(trainer)
        self.loop.call(0.0, process, trainer.start)

    def _ended(self, trainer: SimulatedTrainer) -> None:
        if trainer.killed:
            self._after(trainer)
        else:
            self.loop.call(SETTLING, None, self._exit, trainer)

    def _exit(self, trainer: SimulatedTrainer) -> None:
        """The process ends by itself."""
        process = trainer.process
        # One that was interrupted twice leaves them to its system.
        if process.transports and not (process.dead or trainer.interrupted):
            self.left.append(f"{process.name} keeps {len(process.transports)} connections")
        if not trainer.folder.closed:
            self.left.append(f"{process.name} did not close its folder")
            trainer.folder.close()
        process.die(silent=False)
        self._after(trainer)

    def _after(self, trainer: SimulatedTrainer) -> None:
        if self.over or id(trainer) in self._gone:
            return
        self._gone.add(id(trainer))
        self.loop.note(trainer.process.name, f"{trainer.status}: {trainer.error}")
        done = trainer.bug is not None or trainer.status in ("finished", "diverged")
        if done or len(self.trainers) > self.resumes:
            self.over = True
        else:
            self.loop.call(self.resume_delay, None, self.resume)

    def owner(self, process: Any) -> SimulatedTrainer | None:
        """Return the trainer of `process`."""
        return next((trainer for trainer in self.trainers if trainer.process is process), None)

    def interrupt(self) -> None:
        # A process that is stopped takes the signal when it goes on.
        self.loop.call(0.0, self.current.process, self.current.interrupt)
