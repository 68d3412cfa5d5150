"""What happens around the steps: averaging, validating, judging, saving, showing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from abbe.contract import Watch
from abbe.errors import AbbeError
from abbe.train.batches import TrainingSet
from abbe.train.checkpoint import (
    kept_random_states,
    load_into,
    random_states,
    restore_random_states,
    save_checkpoint,
    seed_everything,
)
from abbe.train.clock import Clock
from abbe.train.curves import write_curves
from abbe.train.ema import MovingAverage
from abbe.train.interrupt import Interrupted, InterruptGuard
from abbe.train.losses import LossRecord
from abbe.train.module import TrainedMethod
from abbe.train.precision import batch_to_channels_last
from abbe.train.processes import Processes
from abbe.train.progress import Display, Log, spell_values
from abbe.train.recipe import TrainConfig
from abbe.train.run_folder import RunFolder
from abbe.train.schedule import halvings
from abbe.train.sharding import is_split, load_whole, load_whole_optimizer, whole

SECONDS_BETWEEN_DRAWINGS = 30.0
Validate = Callable[[Any], dict[str, float]]


@dataclass
class Standing:
    """How a run stands: what its history was and which epoch was best."""

    epochs_done: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    without_gain: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def judge(self, score: float, mode: str, epoch: int) -> bool:
        """Take in a score and say whether it is the best so far; NaN never is."""
        best = self.best_score
        gained = not math.isnan(score) and (best is None or (score > best if mode == "max" else score < best))
        if gained:
            self.best_score, self.best_epoch, self.without_gain = score, epoch, 0
        else:
            self.without_gain += 1
        return gained


class TrainingLoop(lightning.Callback):
    """Follows Lightning's steps; all are one epoch to Lightning, ours end every ``steps_per_epoch`` steps.

    Parameters
    ----------
    method
        What is validated: the method that is trained, or where each process holds a part of it, a whole copy.
    folder, config, processes
        Where to save; what was asked for; who takes part.
    steps_per_epoch
        Length of an epoch.
    clock
        Length of the run; counts from the first step on.
    watch
        The deciding metric.
    validate
        Gives the metrics of the method as it stands; None for the losses only.
    validation_set
        Samples whose mean losses are recorded as ``validation_<name>``.
    display, journal, guard
        Where progress is shown and recorded; who notes Ctrl-C.
    saved
        A checkpoint to continue from.
    """

    def __init__(
        self,
        method: Any,
        folder: RunFolder,
        config: TrainConfig,
        processes: Processes,
        *,
        steps_per_epoch: int,
        clock: Clock,
        watch: Watch,
        validate: Validate | None,
        validation_set: TrainingSet | None,
        display: Display,
        journal: Log,
        guard: InterruptGuard,
        saved: dict[str, Any] | None,
    ) -> None:
        self.method, self.folder, self.config, self.processes, self.watch = method, folder, config, processes, watch
        self.steps_per_epoch, self.clock = steps_per_epoch, clock
        self.validate, self.validation_set = validate, validation_set
        self.display, self.journal, self.guard = display, journal, guard
        self.saved = saved
        self.standing = Standing(**saved["standing"]) if saved else Standing()
        self.losses = LossRecord()
        self.ema: MovingAverage | None = None
        self.last_saved = self.last_drawn = self.epoch_began = time.monotonic()

    @property
    def stopped_early(self) -> bool:
        """Whether patience ran out."""
        return 0 < self.config.patience <= self.standing.without_gain

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Connect the processes, and see that they begin at the same step."""
        self.processes.connect()
        step = _ours(pl_module).step
        with self.processes.together():
            if self.processes.any(self.processes.first(step) != step)[0]:
                raise AbbeError(f"{self.folder.path}: not all machines see this folder; put it where they do")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Continue from a checkpoint, or begin; weights are on their device by now."""
        module = _ours(pl_module)
        self.clock.restart(self.saved["seconds"] if self.saved else 0.0)
        if self.saved:
            load_whole(module.method, self.saved["model"])
        if self.config.ema_decay > 0:
            self.ema = MovingAverage(module.method, self.config.ema_decay)
        if self.saved:
            self._restore(module, self.saved)
            self.saved = None  # frees a second copy of the weights
        else:
            seed_everything(self.config.seed + self.processes.rank)
        self._count_plateaus(module)
        with self.processes.together():
            if self._ends_epoch(module.step) and self._epoch(module.step) > self.standing.epochs_done:
                self._finish_epoch(trainer, module)  # the run ended during a validation
        trainer.should_stop = trainer.should_stop or self.stopped_early

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average the weights, record the losses, and end the epoch where it ends."""
        module = _ours(pl_module)
        if self.ema:
            self.ema.update(module.step - 1)
        with self.processes.together():
            self.losses.add(module.step, self.processes.mean_losses(outputs))
            self.display.show(module.step, self._summary())
            self._end_step(trainer, module)

    def _end_step(self, trainer: lightning.Trainer, module: TrainedMethod) -> None:
        late = time.monotonic() - self.last_saved > self.config.checkpoint_seconds
        # What all agree on decides: a signal that comes behind this line reaches one process before the others.
        asked, late = self.processes.any(self.guard.asked, late)
        if asked:
            self.guard.asked = True
        if self._ends_epoch(module.step):
            self._finish_epoch(trainer, module)
        elif asked or late:
            self._save(module)
        if asked:
            raise Interrupted

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the final curves."""
        if self.processes.leads:
            self._draw()

    def _epoch(self, step: int) -> int:
        return math.ceil(step / self.steps_per_epoch)

    def _ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0 or self._is_last(step)

    def _is_last(self, step: int) -> bool:
        return step == self.clock.total or self.clock.over

    def _finish_epoch(self, trainer: lightning.Trainer, module: TrainedMethod) -> None:
        epoch = self._epoch(module.step)
        rates = {"learning_rate": module.learning_rate}
        row = {"epoch": epoch, "step": module.step, **rates, **self._training_means()}
        if epoch % self.config.validate_every == 0 or self._is_last(module.step):
            row |= self._validated(trainer, module, epoch)
        row["seconds"] = round(time.monotonic() - self.epoch_began, 3)
        self.standing.history.append(row)
        self.standing.epochs_done = epoch
        self._count_plateaus(module)
        self.losses.reset()
        self.epoch_began = time.monotonic()
        self._record(module, row)
        trainer.should_stop = trainer.should_stop or self.stopped_early or self.clock.over

    def _training_means(self) -> dict[str, float]:
        """Of the epoch; what a method tells while it learns is not taken for the validation's figure of that name."""
        means = self.losses.means()
        return {name: mean for name, mean in means.items() if self.validate is None or name != self.watch.name}

    def _count_plateaus(self, module: TrainedMethod) -> None:
        """Count them from the history, which a checkpoint keeps, so that a resumed run goes on at the same rate."""
        scores = [row[self.watch.name] for row in self.standing.history if self.watch.name in row]
        module.halved = halvings(scores, self.watch.mode)

    def _record(self, module: TrainedMethod, row: dict[str, float]) -> None:
        self._save(module)
        if self.processes.leads:
            self.journal.write("epoch", **row)
            if time.monotonic() - self.last_drawn > SECONDS_BETWEEN_DRAWINGS:
                self._draw()

    def _draw(self) -> None:
        if self.standing.history:
            write_curves(self.history(), self.folder.path, self.watch.name, self.watch.mode)
        self.last_drawn = time.monotonic()

    def history(self) -> pd.DataFrame:
        """Return one row per epoch."""
        return pd.DataFrame(self.standing.history)

    def _validated(self, trainer: lightning.Trainer, module: TrainedMethod, epoch: int) -> dict[str, float]:
        """Measure the averaged weights in the leading process, and let the others know what came of it."""
        weights = self._whole_average(module)
        problem: BaseException | None = None
        metrics: dict[str, float] = {}
        if self.processes.leads:
            try:
                metrics = self._measure(trainer, module, epoch, weights)
            except (Exception, Interrupted) as error:
                problem = error
        verdict = (type(problem).__name__ if problem else "", metrics, self.standing)
        ended_by, metrics, self.standing = self.processes.first(verdict)
        if ended_by == Interrupted.__name__:
            self._save(module)
            raise problem or Interrupted
        if problem:
            raise problem
        if ended_by:
            self.processes.leave(2)
        return metrics

    def _whole_average(self, module: TrainedMethod) -> dict[str, torch.Tensor] | None:
        """Put weights together that are split among the processes; None where each holds them all."""
        if not is_split(module.method):
            return None
        return whole({**module.method.state_dict(), **(self.ema.state_dict() if self.ema else {})})

    def _measure(
        self, trainer: lightning.Trainer, module: TrainedMethod, epoch: int, weights: dict[str, torch.Tensor] | None
    ) -> dict[str, float]:
        with kept_random_states(), self._averaged(trainer, weights):
            metrics = self._metrics(trainer, module)
            self._judge(metrics, module, epoch)
        return metrics

    @contextmanager
    def _averaged(self, trainer: lightning.Trainer, weights: dict[str, torch.Tensor] | None) -> Iterator[None]:
        """Give the validated method its averaged weights within a ``with`` block."""
        if weights is None:
            with self.ema.applied() if self.ema else nullcontext():
                yield
            return
        load_into(self.method, weights)
        self.method.to(trainer.strategy.root_device)
        try:
            yield
        finally:
            self.method.to("cpu")  # leaves the device to the training

    def _metrics(self, trainer: lightning.Trainer, module: TrainedMethod) -> dict[str, float]:
        self.method.eval()
        try:
            with torch.no_grad(), self.guard.may_cut():
                metrics = self._validation_losses(trainer, module)
                if self.validate:
                    metrics |= {name: float(value) for name, value in self.validate(self.method).items()}
        finally:
            module.train()
        return metrics

    def _validation_losses(self, trainer: lightning.Trainer, module: TrainedMethod) -> dict[str, float]:
        if self.validation_set is None:
            return {}
        self.validation_set.set_epoch(0)  # the same crops every time
        record = LossRecord()
        generator = module.generator(0)
        loader: DataLoader[Any] = DataLoader(self.validation_set, self.config.batch_size)  # type: ignore[arg-type]
        for batch in loader:
            batch = batch_to_channels_last(trainer.strategy.batch_to_device(batch))
            with trainer.precision_plugin.forward_context():
                found = module.all_losses(self.method, batch, generator)
            record.add(module.step, {f"validation_{name}": value for name, value in found.items()})
        return record.means()

    def _judge(self, metrics: dict[str, float], module: TrainedMethod, epoch: int) -> None:
        score = {"epoch": epoch, **self._training_means(), **metrics}.get(self.watch.name)
        if score is None:
            raise AbbeError(f"validation gives no {self.watch.name!r}, which decides; it gives {', '.join(metrics)}")
        if not self.standing.judge(score, self.watch.mode, epoch):
            return
        state = {
            "model": dict(self.method.state_dict()),
            "epoch": epoch,
            "step": module.step,
            "metrics": metrics,
        }
        save_checkpoint(self.folder.best, {**state, "watch": list(self.watch), "score": score})

    def _save(self, module: TrainedMethod) -> None:
        """Put the state together, which takes every process where the weights are split, and write it once."""
        self.losses.look()  # a diverged run keeps its last good checkpoint
        state = whole(self._state(module))
        if self.processes.leads:
            save_checkpoint(self.folder.last, state)
        self.last_saved = time.monotonic()

    def _state(self, module: TrainedMethod) -> dict[str, Any]:
        return {
            "step": module.step,
            "model": dict(module.method.state_dict()),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizers": {name: o.state_dict() for name, o in module.named_optimizers.items()},
            "random": self.processes.gather(random_states()),
            "losses": self.losses.state_dict(),
            "seconds": self.clock.spent,
            "standing": vars(self.standing),
        }

    def _restore(self, module: TrainedMethod, saved: dict[str, Any]) -> None:
        if self.ema and saved["ema"]:
            self.ema.load_state_dict(saved["ema"])
        for name, optimizer in module.named_optimizers.items():
            load_whole_optimizer(optimizer, saved["optimizers"][name])
        self.losses.load_state_dict(saved["losses"])
        if len(saved["random"]) == self.processes.world:
            restore_random_states(saved["random"][self.processes.rank])
        else:  # as many generators were saved as there were processes
            sequence = np.random.SeedSequence([self.config.seed, module.step, self.processes.rank])
            seed_everything(int(sequence.generate_state(1)[0]))

    def _summary(self) -> str:
        shown = {"loss": self.losses.latest["loss"]} if "loss" in self.losses.latest else dict(self.losses.latest)
        text = spell_values(shown)
        seen = [row[self.watch.name] for row in self.standing.history if self.watch.name in row]
        if seen and self.watch.name != "loss":
            best = math.nan if self.standing.best_score is None else self.standing.best_score
            text += f", {spell_values({self.watch.name: seen[-1], 'best': best})}"
        return text


def _ours(module: lightning.LightningModule) -> TrainedMethod:
    if not isinstance(module, TrainedMethod):
        raise TypeError(f"expected TrainedMethod, found {type(module).__name__}")
    return module
