"""Classes of whole pictures: the objective around any network that gives logits.

Cross-entropy against softened classes (label smoothing, Szegedy et al. 2015, arXiv:1512.00567) of pictures mixed by
mixup and CutMix; afterwards one number, the temperature, makes the probabilities honest (Guo et al. 2017,
arXiv:1706.04599)::

    picture -> network -> logits / temperature -> softmax -> probability of each class

The temperature is 1 while training. It is fitted on the validation split at the end and stored in the options, so that
it travels with the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from abbe.contract import Geometry, Joins, Watch
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.metrics.classes import scores
from abbe.nn.mixing import mix
from abbe.ops.totals import batch_total


@dataclass(frozen=True)
class ClassificationOptions:
    """What the classes are, how pictures come to the network, and the loss."""

    classes: tuple[str, ...] = ()
    """Names, in the order of the network's logits; those of the folders unless given."""
    size: int = 0
    """Side in pixels of the square that the network takes; that of the recipe's crops unless given."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How pictures of other sizes become squares: crop: the shorter side fills it; pad: the longer one; stretch."""
    object_side: int | None = None
    """Side in pixels of the square cut around an object; the object's own longer side and the margin unless given."""
    object_margin: float = 0.25
    """Context on each side of an object, as a share of its longer side."""
    label_smoothing: float = 0.0
    """Share of each class that is given to all classes alike."""
    mixup: float = 0.0
    """Parameter of mixup's Beta distribution; 0: off."""
    cutmix: float = 0.0
    """Parameter of CutMix's Beta distribution; 0: off."""
    mix_probability: float = 1.0
    """Share of the batches that are mixed."""
    balance: float = 0.0
    """How classes weigh in the loss, as a power of one over their number: 0 all images alike, 1 all classes alike."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class in the loss; from ``balance`` unless given."""
    temperature: float = 1.0
    """What logits are divided by for calibrated probabilities; fitted after training."""

    @property
    def num_classes(self) -> int:
        """Logits that the network has to give."""
        return len(self.classes)

    def __post_init__(self) -> None:
        twice = sorted(name for name, times in Counter(self.classes).items() if times > 1)
        if twice:
            raise AbbeError(f"options.classes: {', '.join(twice)} more than once")
        if self.class_weights and len(self.class_weights) != len(self.classes):
            raise AbbeError(
                f"options.class_weights: {len(self.class_weights)} weights for {len(self.classes)} classes; expected "
                "one for each, or none"
            )
        if min((*self.class_weights, self.mixup, self.cutmix, self.temperature - 1e-9)) < 0:
            raise AbbeError("options: mixup, cutmix, class_weights and temperature; expected none below 0")
        if not (0 <= self.label_smoothing < 1 and 0 <= self.mix_probability <= 1):
            raise AbbeError(
                f"options: label_smoothing {self.label_smoothing:g} and mix_probability {self.mix_probability:g}; "
                "expected shares from 0 to 1"
            )


class Classification(nn.Module):
    """The objective: a network for whole pictures.

    Parameters
    ----------
    network
        Maps (B, C, Y, X) to logits (B, K); has ``in_channels``, or begins with a convolution.
    options
        As many classes as the network has logits.
    """

    joins: Joins = "whole"
    watch = Watch("balanced_accuracy", "max")

    def __init__(self, network: nn.Module, options: ClassificationOptions | None = None):
        super().__init__()
        self.network = network
        self.options = options or ClassificationOptions()
        weights = self.options.class_weights or (1.0,) * len(self.options.classes)
        self.register_buffer("class_weights", torch.tensor(weights), persistent=False)

    @property
    def in_channels(self) -> int:
        """Channels of the image: what the network says, or what its first convolution takes."""
        known: Any = getattr(self.network, "in_channels", None)
        if known is not None:
            return int(known)
        return next(layer.in_channels for layer in self.network.modules() if isinstance(layer, nn.Conv2d))

    @property
    def geometry(self) -> Geometry:
        """It takes squares of one size, whole."""
        return Geometry(None, (max(self.options.size, 1),) * 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K)."""
        return self.network(x)

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Give the picture and the number of its class."""
        if "class" not in sample.extra:
            raise AbbeError(f"{sample.name}: has no class to learn from")
        return {"image": torch.from_numpy(sample.image), "class": torch.tensor(sample.extra["class"])}

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute the weighted cross-entropy against mixed and softened classes, and the share that is right."""
        options = self.options
        target = F.one_hot(batch["class"], len(options.classes)).float()  # (B, K)
        image = batch["image"]
        if self.training and _happens(options.mix_probability, generator):
            image, target = mix(image, target, options.mixup, options.cutmix, generator)
        logits = self.network(image).float()
        loss = soft_cross_entropy(logits, target, options.label_smoothing, self.class_weights)  # type: ignore[arg-type]
        right = (logits.detach().argmax(dim=1) == target.argmax(dim=1)).float().mean()
        return {"loss": loss, "right": right}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute calibrated probabilities and the logits they come from, (B, K) each, float32."""
        logits = self.network(x).float()
        return {"probability": (logits / self.options.temperature).softmax(dim=1), "logit": logits}

    def decode(self, outputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        """Give the ``probability`` (K,) of one picture and the number of its ``class``."""
        probability = outputs["probability"]
        return {"probability": probability, "class": np.asarray(probability.argmax())}

    def score(self, decoded: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Measure top-1 and balanced accuracy, calibration error and likelihood of a data set."""
        probability = np.stack([found["probability"] for found in decoded])
        return scores(probability, np.array([int(true["class"]) for true in truth]))


def _happens(probability: float, generator: torch.Generator) -> bool:
    if probability >= 1:
        return True
    return bool(torch.rand((), generator=generator, device=generator.device) < probability)


def soft_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float, class_weights: torch.Tensor
) -> torch.Tensor:
    """Compute the mean cross-entropy against shares of classes, each sample weighted as its classes are.

    Parameters
    ----------
    logits
        (B, K).
    target
        (B, K), rows sum to one.
    smoothing
        Share of the target that is given to all classes alike.
    class_weights
        (K,).
    """
    classes = logits.shape[1]
    weight = target @ class_weights  # (B,)
    soft = target * (1 - smoothing) + smoothing / classes
    entropy = -(soft * logits.log_softmax(dim=1)).sum(dim=1)
    return (weight * entropy).sum() / batch_total(weight.sum()).clamp(min=1e-12)


def weights_of_classes(counts: Sequence[int], balance: float) -> tuple[float, ...]:
    """Weigh classes by their number of images to the power of −``balance``, with a mean of one over the images."""
    numbers = np.maximum(np.asarray(counts, float), 1)
    raw = numbers**-balance
    scaled = raw * numbers.sum() / (raw * numbers).sum()
    return tuple(round(float(weight), 6) for weight in scaled)
