"""A tiny method with batch norm and dropout, so that buffers and the global random state matter."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from abbe.contract import Watch
from abbe.train.fit import FitResult, fit
from abbe.train.recipe import TrainConfig

CONFIG: dict[str, Any] = {
    "epochs": 3,
    "steps_per_epoch": 6,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "ema_decay": 0.9,
    "precision": "float32",
    "accelerator": "cpu",
}


class Toy(nn.Module):
    """Learns y = 2 x − 0.5 with a noisy input."""

    watch = Watch("error", "min")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.1)]
        self.network = nn.Sequential(*layers, nn.Conv2d(6, 1, 3, padding=1))
        self.signals: dict[int, int] = {}

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        image = batch["image"]
        noise = torch.randn(image.shape, generator=generator) * 0.01
        squared = (self.network(image + noise) - batch["target"]).square().mean()
        return {"loss": squared, "half": squared / 2}

    def after_step(self, step: int) -> None:
        if step in self.signals:
            os.kill(os.getpid(), self.signals.pop(step))


class Squares(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random fields; item i of epoch e depends on both alone."""

    def __init__(self, size: int = 18, side: int = 12) -> None:
        self.size, self.side, self.epoch = size, side, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.epoch * 1000 + index)
        image = torch.rand(1, self.side, self.side, generator=generator)
        return {"image": image, "target": 2 * image - 0.5}


@torch.no_grad()
def validate(method: Toy) -> dict[str, float]:
    batch = default_collate([Squares()[i] for i in range(8)])
    torch.rand(3)  # a validation that spends global random numbers must not change the training
    return {"error": float((method.network(batch["image"]) - batch["target"]).square().mean())}


def train(folder: Path, method: Toy | None = None, *, resume: bool = False, **changes: Any) -> FitResult:
    config = TrainConfig(**{**CONFIG, **changes})
    return fit(
        method or Toy(),
        Squares(),
        None,
        config,
        folder,
        recipe_text="name = 'toy'\n",
        validate=validate,
        resume=resume,
        progress=False,
    )


if __name__ == "__main__":
    victim = Toy()
    victim.signals = {int(sys.argv[2]): signal.SIGKILL}
    train(Path(sys.argv[1]), victim, checkpoint_seconds=0.0)
