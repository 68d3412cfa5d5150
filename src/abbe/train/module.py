"""Any method as a LightningModule, known by its Protocol alone."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from torch import nn

from abbe.ops.totals import shared_batch
from abbe.train.clock import Clock
from abbe.train.precision import batch_to_channels_last
from abbe.train.processes import Processes
from abbe.train.recipe import TrainConfig
from abbe.train.schedule import build_optimizers, learning_rate_factor, set_learning_rate
from abbe.train.sharding import shard


class TrainedMethod(lightning.LightningModule):
    """Descends the ``"loss"`` of a method: one optimizer, or one for each of its players in turn.

    Parameters
    ----------
    method
        An ``nn.Module`` with ``training_step(batch, *, generator)``; it may have ``parameter_groups()``,
        ``players()`` and ``after_step(step)``.
    config
        Optimizer, schedule and clipping.
    clock
        Length of the whole training, for the schedule, and the first step of this part of it.
    processes
        Who shares the batches.
    """

    def __init__(self, method: Any, config: TrainConfig, clock: Clock, processes: Processes | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method: Any = method
        self.config = config
        self.clock = clock
        self.step = clock.start
        self.halved = 0  # of a schedule that follows plateaus
        self.processes = processes or Processes(TrainConfig())
        self.named_optimizers: dict[str, torch.optim.Optimizer] = {}

    def train(self, mode: bool = True) -> TrainedMethod:
        """Switch to training, but for batch norms that are frozen."""
        super().train(mode)
        for part in self.modules() if self.config.frozen_norms else ():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self

    def on_train_start(self) -> None:
        """Lightning leaves the modes as they are."""
        self.train()

    def configure_model(self) -> None:
        """Split the weights where the strategy has laid out processes for it; Lightning calls this first."""
        if self.device_mesh is None:
            return
        if self.device_mesh.device_type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.method)  # what Lightning does by itself for whole weights
        shard(self.method, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make the optimizers; Lightning calls this when the weights are on their device."""
        self.named_optimizers = build_optimizers(self.method, self.config)
        return list(self.named_optimizers.values())

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """Lay out images channels last."""
        return batch_to_channels_last(batch)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Do one step for every player and return all losses, those of players as ``player/name``."""
        generator = self.generator(self.step)
        wrapped = self.optimizers()
        wrapped = wrapped if isinstance(wrapped, list) else [wrapped]
        losses: dict[str, torch.Tensor] = {}
        for player, optimizer in zip(self.named_optimizers, wrapped, strict=True):
            with shared_batch(self.processes.mean):
                found = _losses(self.method, batch, generator, player)
            self._descend(found[_of("loss", player)], optimizer)
            losses |= {name: value.detach().float() for name, value in found.items()}
        if hasattr(self.method, "after_step"):
            self.method.after_step(self.step)
        self.step += 1
        return losses

    def all_losses(
        self, method: Any, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of every player without a step, in this process alone, with a copy of the method."""
        found = (_losses(method, batch, generator, player) for player in self.named_optimizers)
        return {name: value.float() for losses in found for name, value in losses.items()}

    def generator(self, step: int) -> torch.Generator:
        """Make the generator of a step: the same whether the run came here at once or was resumed."""
        seed = np.random.SeedSequence([self.config.seed, step, self.global_rank]).generate_state(1, np.uint64)[0]
        return torch.Generator(device=self.device).manual_seed(int(seed) >> 1)

    @property
    def learning_rate(self) -> float:
        """Rate of the first group at the latest step."""
        return float(next(iter(self.named_optimizers.values())).param_groups[0]["lr"])

    def _descend(self, loss: torch.Tensor, optimizer: Any) -> None:
        set_learning_rate(optimizer, self._factor())
        optimizer.zero_grad()
        with torch.autocast(self.device.type, enabled=False):  # gradients follow the forward pass's own types
            self.manual_backward(loss)
        if self.config.gradient_clip > 0:
            self.clip_gradients(optimizer, self.config.gradient_clip, "norm")
        optimizer.step()

    def _factor(self) -> float:
        c, total = self.config, self.clock.expected(self.step)
        return learning_rate_factor(
            self.step, total=total, warmup=c.warmup_steps, schedule=c.schedule, halved=self.halved
        )


def _losses(
    method: Any, batch: dict[str, torch.Tensor], generator: torch.Generator, player: str
) -> dict[str, torch.Tensor]:
    whose = {"player": player} if player else {}
    found = method.training_step(batch, generator=generator, **whose)
    return {_of(name, player): value for name, value in found.items()}


def _of(name: str, player: str) -> str:
    return f"{player}/{name}" if player else name


def parameter_count(module: nn.Module) -> int:
    """Count trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
