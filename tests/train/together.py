"""Trainings that two processes do together; run as a script in each of them, and imported for the one-process side.

``together.py FOLDER`` runs every scenario and leaves ``FOLDER/outcome<rank>.json``: what each one came to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from abbe.data.augment import AugmentConfig
from abbe.data.datasets import TrainingDataset
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.backbones.unet import VARIANTS as UNETS
from abbe.methods.backbones.unet import UNetSegmentation
from abbe.methods.backbones.unet import build as build_unet
from abbe.methods.backbones.unet_residual import VARIANTS as RESIDUALS
from abbe.methods.backbones.unet_residual import build as build_residual
from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.train.fit import fit
from abbe.train.recipe import TrainConfig

RECIPE = "name = 'toy'\n"
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 4,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "weight_decay": 1e-3,
    "gradient_clip": 0.2,  # below the norms that occur
    "ema_decay": 0.8,
    "precision": "float32",
    "accelerator": "cpu",
}
STOP = 4
"""Step during which a run is interrupted, in the middle of the second epoch."""


class Interruptible:
    """Raises a signal in the process itself after a step."""

    stop_after = -1

    def after_step(self, step: int) -> None:
        if step == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)


class Instances(Interruptible, InstanceSegmentation):
    """The objective of the recipe ``nuclei``; its batch norms keep their statistics."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(build_residual(RESIDUALS["unet_residual_tiny"]))
        self.train()

    def train(self, mode: bool = True) -> Instances:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class UNet2015(Interruptible, UNetSegmentation):
    """The objective of the recipe ``unet_2015``."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(build_unet(UNETS["unet_2015_tiny"]))


class Pull(nn.Module):
    """Two players, each of which leaves the other's parameters alone."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"up": [self.up], "down": [self.down]}

    def training_step(self, batch: Any, *, generator: Any, player: str) -> dict[str, torch.Tensor]:
        pull = batch["image"].mean()
        return {"loss": -pull * self.up.sum() if player == "up" else pull * self.down.sum()}


class Diverging(Instances):
    """Its loss is not a number in the second process."""

    def training_step(self, batch: Any, *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        found = super().training_step(batch, generator=generator)
        return {name: loss * (float("nan") if rank() else 1.0) for name, loss in found.items()}


METHODS: dict[str, Callable[[], Any]] = {"instances": Instances, "unet_2015": UNet2015}


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def fields(method: Any) -> TrainingDataset:
    """Crops of random objects, on half of the images with most pixels not annotated."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(6):
        labels = np.zeros((48, 48), np.int32)
        for y, x in ((4, 4), (4, 26), (26, 4), (26, 26)):
            labels[y : y + rng.integers(6, 18), x : x + rng.integers(6, 18)] = labels.max() + 1
        noise = rng.normal(0, 0.1, (method.in_channels, 48, 48))
        ignore = np.zeros((48, 48), bool)
        ignore[:, : 40 * (number % 2)] = True
        samples.append(Sample(((labels > 0) + noise).astype(np.float32), labels, ignore, name=f"field{number}"))
    config = AugmentConfig(stain_probability=0.0)
    return TrainingDataset(samples, method.prepare, config, (32, 32), 12, seed=3)


def squared_weights(method: Any) -> dict[str, float]:
    """A score that depends on all weights, and that every process could not compute alone where they are split."""
    return {"score": float(sum(weight.square().sum() for weight in method.state_dict().values()))}


def train(name: str, folder: Path, *, stop_after: int = -1, resume: bool = False, **changes: Any) -> Any:
    """Train one of the methods, or resume a run of it; its weights decide which epoch is best."""
    method = METHODS[name]()
    method.stop_after, method.watch = stop_after, ("score", "max")
    config = TrainConfig(**{**SETTINGS, **changes})
    options: dict[str, Any] = {"recipe_text": RECIPE, "validate": squared_weights, "progress": False}
    return fit(method, fields(method), None, config, folder, resume=resume, **options)


def told(run: Callable[[], Any]) -> dict[str, Any]:
    """Say what came of a run."""
    try:
        result = run()
    except (AbbeError, KeyboardInterrupt, SystemExit) as error:
        return {"error": type(error).__name__, "text": str(error)}
    facts = {"epochs": len(result.history), "early": result.stopped_early, "best": result.best_score}
    return {**facts, "leads": result.leads, "loss": list(result.history.get("loss", []))}


def scenarios(folder: Path) -> dict[str, Callable[[], Any]]:
    """What two processes do together; folders called ``one_...`` were begun by one process."""
    two: dict[str, Any] = {"devices": 2}
    found: dict[str, Callable[[], Any]] = {}
    for strategy in ("ddp", "fsdp"):
        shared = two | {"strategy": strategy}
        for name in METHODS:
            found[f"{strategy}_{name}"] = lambda name=name, s=shared, f=f"{strategy}_{name}": train(
                name, folder / f, **s
            )
        stopped = shared | {"stop_after": STOP if rank() else -1}
        found[f"two_{strategy}"] = lambda s=stopped, f=f"two_{strategy}": train("instances", folder / f, **s)
        found[f"two_{strategy}_again"] = lambda s=shared, f=f"two_{strategy}": train(
            "instances", folder / f"{f}_again", **s, stop_after=STOP if rank() == 0 else -1
        )
        found[f"one_{strategy}"] = lambda s=shared, f=f"one_{strategy}": train(
            "instances", folder / f, resume=True, **s
        )
    adam = two | {"strategy": "fsdp", "optimizer": "adamw", "precision": "bfloat16"}
    found["adamw"] = lambda: train("instances", folder / "adamw", **adam)
    config = TrainConfig(**{**SETTINGS, **two})
    patient = TrainConfig(**{**SETTINGS, **two, "epochs": 5, "patience": 2})

    def measured(directory: str, validate: Any, config: TrainConfig = config, method: Any = Instances) -> Any:
        built = method()
        built.watch = ("score", "max")
        data = fields(built) if method is not Pull else fields(Instances())
        options: dict[str, Any] = {"recipe_text": RECIPE, "validate": validate, "progress": False}
        return fit(built, data, None, config, folder / directory, **options)

    scores = iter([0.5, 0.6, 0.4, 0.3, 0.9])
    found["patience"] = lambda: measured("patience", lambda _: {"score": next(scores)}, patient)
    found["nameless"] = lambda: measured("nameless", lambda _: {"other": 1.0})
    found["broken"] = lambda: measured("broken", None, method=Diverging)
    found["players"] = lambda: measured("players", None, method=Pull)

    def impatient(method: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {"score": 1.0}

    found["cut"] = lambda: measured("cut", impatient)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    outcomes = {name: told(run) for name, run in scenarios(place).items()}
    (place / f"outcome{rank()}.json").write_text(json.dumps(outcomes), encoding="utf-8")
