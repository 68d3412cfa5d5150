"""Train a method: the one function that callers need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch

from abbe.contract import Watch
from abbe.errors import AbbeError
from abbe.nn.memory import tune_allocator
from abbe.train.batches import Batches, SampleOrder, TrainingSet
from abbe.train.checkpoint import load_checkpoint, load_into, load_weights, previous
from abbe.train.clock import Clock
from abbe.train.interrupt import Interrupted, InterruptGuard
from abbe.train.loop import TrainingLoop, Validate
from abbe.train.module import TrainedMethod, parameter_count
from abbe.train.precision import are_thin, resolve_accelerator, resolve_precision, to_channels_last
from abbe.train.processes import Processes
from abbe.train.progress import Log, open_display
from abbe.train.recipe import TrainConfig
from abbe.train.run_folder import RunFolder
from abbe.train.trainer import build_trainer, check_devices, ended_helpers, quiet_lightning, splits_weights


@dataclass(frozen=True)
class FitResult:
    """What a training leaves behind."""

    best_path: Path
    """Checkpoint with the best weights; :func:`abbe.train.checkpoint.load_weights` reads it."""
    last_path: Path
    """Checkpoint from which the run can be continued."""
    history: pd.DataFrame
    """One row per epoch: losses, metrics where validated, learning rate, seconds."""
    best_score: float | None
    """Best value of the deciding metric."""
    stopped_early: bool
    """Whether patience ended the run before its length did."""
    leads: bool = True
    """Whether this process is the one of several that prints and writes."""


def fit(
    method: Any,
    training_set: TrainingSet,
    validation_set: TrainingSet | None,
    config: TrainConfig,
    run_dir: Path,
    *,
    recipe_text: str = "",
    validate: Validate | None = None,
    resume: bool = False,
    progress: bool = True,
    going_on: str = "",
) -> FitResult:
    """Train a method, keep the best and the last state, and leave the best weights in ``method``.

    On several devices every one has a process. They are those that torchrun, Slurm, LSF or MPI have started; otherwise
    this process starts the others of its machine, each by the command that started itself, and they end here.

    Parameters
    ----------
    method
        An ``nn.Module`` with the functions of :class:`abbe.contract.Method`; changed in place.
    training_set
        Samples as dicts of tensors of equal shapes, random by their own seed, epoch and index alone.
    validation_set
        Samples whose mean losses are recorded at each validation, as ``validation_<name>``; may be None.
    config
        Length, optimizer, schedule, precision, devices.
    run_dir
        Folder for recipe, environment, log, curves and checkpoints.
    recipe_text
        The resolved recipe, kept in the folder; a run is resumed only with the same.
    validate
        Called with the method in evaluation mode, with averaged weights; returns metrics, among them the one
        that ``method.watch`` names. None: the validation loss, or else the training loss, decides.
    resume
        Continue the run in ``run_dir`` at its last checkpoint, on as many processes as there are now; on a CPU it
        ends bit-equal to one without interruption when they are as many as before.
    progress
        Show progress on standard error.
    going_on
        How to go on after Ctrl-C, where that is not by the options --resume and --out.

    Raises
    ------
    AbbeError
        When the folder holds another run, there is nothing to resume, the data is empty, the loss is not
        finite, the deciding metric is missing, there are not enough devices or processes, or the GPU's memory does
        not suffice.
    KeyboardInterrupt
        After Ctrl-C or termination of any process, when the state is saved.
    SystemExit
        In processes that do not lead, when the leading one has ended with an error or by Ctrl-C, and in those that were
        started for this training.
    """
    if len(training_set) == 0:
        raise AbbeError("the training set has no samples; is its folder empty, or its split named otherwise?")
    processes = Processes(config)
    check_devices(config, resolve_accelerator(config.accelerator), method)
    folder = RunFolder(run_dir)
    if processes.leads:
        folder.open(recipe_text, resume=resume)
    saved = _last_checkpoint(folder) if resume else None
    tune_allocator()
    to_channels_last(method)
    going_on = going_on or f"continue with --resume and --out {run_dir}"
    run = _Run(method, training_set, validation_set, config, processes, folder, validate, saved, progress, going_on)
    return run.go()


class _Run:
    """One call of :func:`fit`: its parts, made in order."""

    def __init__(
        self,
        method: Any,
        training_set: TrainingSet,
        validation_set: TrainingSet | None,
        config: TrainConfig,
        processes: Processes,
        folder: RunFolder,
        validate: Validate | None,
        saved: dict[str, Any] | None,
        progress: bool,
        going_on: str,
    ) -> None:
        self.going_on = going_on
        self.method, self.training_set, self.config, self.folder = method, training_set, config, folder
        self.processes = processes
        self.start = saved["step"] if saved else 0
        per_epoch, self.total = run_length(len(training_set), config)
        self.accelerator = resolve_accelerator(config.accelerator)
        self.precision = resolve_precision(config.precision, self.accelerator, are_thin(config.crop, method))
        self.clock = Clock(self.start, self.total, config.minutes)
        self.display = open_display(progress and processes.leads, self.clock)
        self.log = Log(folder.log if processes.leads else None)
        self.guard = InterruptGuard()
        trained = deepcopy(method) if splits_weights(config) else method
        self.module = TrainedMethod(trained, config, self.clock, processes)
        self.loop = TrainingLoop(
            method,
            folder,
            config,
            processes,
            steps_per_epoch=per_epoch,
            clock=self.clock,
            watch=_deciding(method, validate, validation_set),
            validate=validate,
            validation_set=validation_set,
            display=self.display,
            journal=self.log,
            guard=self.guard,
            saved=saved,
        )

    def go(self) -> FitResult:
        """Train, and leave the best weights in the method."""
        self.log.write(
            "start" if self.start == 0 else "resume",
            step=self.start,
            **self._facts(),
            config=asdict(self.config),
        )
        self.display.note(self._plan())
        try:
            with quiet_lightning(), _deterministic(self.config.deterministic), self.guard.installed():
                trainer = self._trainer()
                with ended_helpers(trainer):
                    trainer.fit(self.module, self._batches())
        except Interrupted:
            self._note(f"stopped at step {self.module.step}; {self.going_on}")
            if not self.processes.leads:
                self.processes.leave(130)
            raise KeyboardInterrupt from None
        except torch.cuda.OutOfMemoryError as error:
            raise AbbeError(
                f"{_first_line(error)}: try train.batch_size={max(1, self.config.batch_size // 2)}"
            ) from error
        except Exception as error:
            self.log.write("error", message=f"{type(error).__name__}: {error}")
            raise
        finally:
            self.display.close()
        if self.processes.is_helper:
            self.processes.leave(0)
        return self._result()

    def _trainer(self) -> lightning.Trainer:
        arguments = (self.config, self.method, self.processes, self.accelerator, self.precision)
        return build_trainer(*arguments, self.loop, self.folder.path)

    def _batches(self) -> Batches:
        c, processes = self.config, self.processes
        order = SampleOrder(len(self.training_set), c.batch_size, c.seed, processes.rank, processes.world)
        return Batches(
            self.training_set,
            order,
            self.start,
            self.total,
            workers=c.workers,
            notify=self._note,
            pin_memory=self.accelerator == "cuda",
        )

    def _note(self, sentence: str) -> None:
        self.display.note(sentence)
        self.log.write("note", message=sentence)

    def _plan(self) -> str:
        where = self.accelerator if self.processes.world == 1 else f"{self.processes.world} x {self.accelerator}"
        size = f"{parameter_count(self.method) / 1e6:.2f} M parameters on {where} in {self.precision}"
        begin = f"from step {self.start} " if self.start else ""
        end = f"for {self.config.minutes:g} min" if self.config.minutes else f"to step {self.total}"
        return f"training {size}, {begin}{end}; log and curves in {self.folder.path}"

    def _facts(self) -> dict[str, Any]:
        facts = {"accelerator": self.accelerator, "precision": self.precision, "processes": self.processes.world}
        facts |= {"total_steps": self.total}
        return {**facts, "parameters": parameter_count(self.method)}

    def _result(self) -> FitResult:
        standing, folder = self.loop.standing, self.folder
        if folder.best.exists():
            load_into(self.method, load_weights(folder.best))
        self.method.eval()
        self.log.write("end", best_score=standing.best_score, best_epoch=standing.best_epoch)
        outcome = (self.loop.history(), standing.best_score, self.loop.stopped_early)
        return FitResult(folder.best, folder.last, *outcome, leads=self.processes.leads)


def run_length(samples: int, config: TrainConfig) -> tuple[int, int]:
    """Return steps per epoch and steps in all."""
    per_epoch = config.steps_per_epoch or SampleOrder(samples, config.batch_size, 0).steps_per_pass
    return per_epoch, config.steps or per_epoch * config.epochs


def _last_checkpoint(folder: RunFolder) -> dict[str, Any] | None:
    """A run that was killed before its first checkpoint begins again, which comes to the same."""
    if not folder.last.exists() and not previous(folder.last).exists():
        return None
    return load_checkpoint(folder.last)


def _deciding(method: Any, validate: Validate | None, validation_set: TrainingSet | None) -> Watch:
    if validate is not None:
        return Watch(*method.watch)
    if hasattr(method, "players"):
        return Watch("epoch", "max")  # the losses of adversaries tell nothing: the latest is the best
    return Watch("loss" if validation_set is None else "validation_loss", "min")


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
