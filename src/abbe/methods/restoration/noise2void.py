"""Noise2Void: a network that never sees the pixel it is asked for can only say what its neighbours tell of it.

Krull, Buchholz, Jug, "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019, arXiv:1811.10980. Noise
that is independent from pixel to pixel cannot be foretold from the neighbours, the image can. So a few pixels of a
noisy patch are replaced by one of their neighbours, and the network learns to give back what they were: the best that
it can do is the image without noise. Nothing clean is needed, the noisy images themselves are enough::

    noisy patch (C, [Z,] Y, X) -- one pixel in every box gets the value of a neighbour --> U-Net --> restored
              \\---------------------------- squared error at these pixels only --------------------------/

    U-Net     image -- 2 conv w ------------------------------------------- concat -- 2 conv w -- 1x1 (+ image)
    (depth 2)             \\ max pool -- 2 conv 2w ---------- concat -- conv 2w, w -- nearest /
                                            \\ max pool -- conv 4w, 2w -- nearest /

Stratified sampling (Section 3.3): a patch is laid out in boxes, of which each has one masked pixel anywhere in it; what
falls beyond the patch is left out, so that every pixel is masked equally often, and none twice. The value comes from
the window around it, cut at the borders, every pixel in it equally likely; the paper's recipe has the masked pixel
itself among them (``centre``), which is the only way in which a value can stay where it is. Channels are masked apart,
each with boxes of its own, and each has a network of its own unless ``separate_channels`` is off. A stack has a window
in space; a time series of planes is a stack whose planes are its times.

Against the paper: another masked pixel never lends its value, which would show a neighbour what is hidden from it (the
authors' library allows this), and the boxes of stacks hold the share that was asked for (the library takes a square
root where a stack needs a cubic one). Batch normalisation is PyTorch's (momentum 0.1, epsilon 1e-5; Keras: 0.01, 1e-3),
its scales begin at :data:`NORM_SCALE` (there: 1), and convolutions have no bias before it. On the way up channels are
halved level by level, as when the paper came out (the library since 2022: to ``w`` at once). ``noise2void`` and the
defaults of :class:`Noise2VoidOptions` are the recipe for BSD68; ``noise2void_library`` and :data:`LIBRARY` what the
library takes unless told otherwise; ``noise2void_small`` is the paper's at a ninth of the work, and gives the image
itself: a residual network begins with the noisy image as its answer and takes longer to leave it. Images are normalised
to mean 0 and deviation 1 over all of the data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from abbe.contract import Geometry, Joins, Watch
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.metrics.images import psnr
from abbe.nn.receptive_field import receptive_halo
from abbe.ops.totals import batch_total

LAYERS: dict[int, Any] = {
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
}
"""Convolution, normalisation and pooling of planes and of stacks."""
NORM_SCALE = 0.1
"""Scale with which norms begin: with 1 the first answers are large, and hundreds of steps go into unlearning them."""


@dataclass(frozen=True)
class Noise2VoidConfig:
    """Sizes of a network."""

    in_channels: int = 1
    """Channels of the image, and of what comes out."""
    base: int = 96
    """Channels of the first level; every level down doubles them."""
    depth: int = 2
    """Times the resolution is lowered."""
    kernel: int = 3
    """Extent of the convolutions."""
    pool: tuple[int, ...] = (2, 2)
    """Pixels that a level down joins along each axis: (Y, X) for planes, (Z, Y, X) for stacks."""
    residual: bool = True
    """Learn what to add to the image instead of the image."""
    separate_channels: bool = True
    """A network of its own for every channel, as if they were images of their own."""


class Noise2VoidUNet(nn.Module):
    """The U-Net of Section 4: noisy image in, restored image of the same size out.

    Parameters
    ----------
    config
        See :class:`Noise2VoidConfig`; all of its channels are seen together here.
    """

    def __init__(self, config: Noise2VoidConfig):
        super().__init__()
        self.in_channels, self.residual = config.in_channels, config.residual
        self.multiple = tuple(joined**config.depth for joined in config.pool)
        axes, base = len(config.pool), config.base
        convolution, _, pool = LAYERS[axes]
        *widths, widest = (base * 2**level for level in range(config.depth + 1))
        self.contracting = nn.ModuleList(
            double_convolution(axes, config.kernel, fan, width, width)
            for fan, width in zip([config.in_channels, *widths], widths)
        )
        self.pool = pool(config.pool)
        self.middle = double_convolution(axes, config.kernel, widths[-1], widest, widths[-1])
        self.upsample = nn.Upsample(scale_factor=tuple(map(float, config.pool)), mode="nearest")
        self.expanding = nn.ModuleList(
            double_convolution(axes, config.kernel, 2 * width, width, out)
            for width, out in zip(widths[::-1], [*widths[-2::-1], base])
        )
        self.head = convolution(base, config.in_channels, 1)
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore images (B, C, [Z,] Y, X) whose extents are multiples of ``multiple``."""
        check_extents(x, self.multiple)
        image, skips = x, []
        for convolutions in self.contracting:
            x = convolutions(x)  # (B, w 2^level, Y / 2^level, X / 2^level)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for convolutions, skip in zip(self.expanding, reversed(skips), strict=True):
            x = convolutions(torch.cat([self.upsample(x), skip], dim=1))
        x = self.head(x)  # (B, C, Y, X)
        return x + image if self.residual else x


class ChannelByChannel(nn.Module):
    """A network of one channel for each channel of an image."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.in_channels = len(networks)
        self.multiple = networks[0].multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore images (B, C, [Z,] Y, X)."""
        return torch.cat([network(x[:, i : i + 1]) for i, network in enumerate(self.networks)], dim=1)


def double_convolution(axes: int, kernel: int, in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
    """Two padded convolutions, each followed by batch normalisation and ReLU."""
    convolution, norm, _ = LAYERS[axes]
    layers: list[nn.Module] = []
    for fan, width in ((in_channels, middle), (middle, out_channels)):
        conv = convolution(fan, width, kernel, padding=kernel // 2, bias=False)
        layers += [conv, norm(width), nn.ReLU(inplace=True)]  # side by side, so that inference can fold two into one
    return nn.Sequential(*layers)


def initialise(module: nn.Module) -> None:
    """Draw the weights of convolutions as Glorot and Bengio 2010 (PMLR 9:249), as the authors do; norms begin small."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.constant_(module.weight, NORM_SCALE)


def check_extents(x: torch.Tensor, multiple: tuple[int, ...]) -> None:
    """Raise ValueError where extents are no multiples."""
    if any(extent % m for extent, m in zip(x.shape[2:], multiple, strict=True)):
        raise ValueError(f"extents {tuple(x.shape[2:])} are not multiples of {multiple}")


# ------------------------------------------------------------------------------------------------- blind spots


class Blinded(NamedTuple):
    """A patch in which some pixels are hidden."""

    image: np.ndarray
    """(C, [Z,] Y, X): the patch with other values at the hidden pixels."""
    mask: np.ndarray
    """Like ``image``, bool: the pixels that the network is asked for."""


class Neighbours(NamedTuple):
    """What lies around some pixels; K is the number of pixels in a window, the pixel itself in the middle."""

    values: np.ndarray
    """(N, K)."""
    allowed: np.ndarray
    """(N, K), bool: inside the image and not hidden."""


def blind(image: np.ndarray, share: float, radius: int, generator: np.random.Generator, *, centre: bool) -> Blinded:
    """Replace one pixel in every box by a pixel of the window around it.

    Parameters
    ----------
    image
        (C, [Z,] Y, X); every channel has boxes of its own.
    share
        Part of the pixels to hide.
    radius
        Windows reach so many pixels to each side.
    generator
        Of places and values.
    centre
        Whether a pixel itself is among those its value is drawn from.
    """
    places = stratified_places(image.shape, box_sides(image.shape, share), generator)
    around = neighbours(image, places, radius, marked(image.shape, places))
    if centre:
        around.allowed[:, around.allowed.shape[1] // 2] = True
    return replace_at(image, places, draw(around, generator), around)


def box_sides(shape: Sequence[int], share: float) -> tuple[int, ...]:
    """Give the extents of a box in (C, [Z,] Y, X) that has one in 1 / ``share`` pixels."""
    axes = len(shape) - 1
    return (1, *[max(round((1 / share) ** (1 / axes)), 2)] * axes)


def stratified_places(shape: Sequence[int], sides: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    """Choose a pixel in every box, (axes, N); a patch in whose boxes none was met has one anywhere."""
    extents, side = np.array(shape)[:, None], np.array(sides)[:, None]
    corners = box_corners(tuple(shape), tuple(sides))
    places = corners + (generator.random(corners.shape) * side).astype(np.intp)
    places = places[:, (places < extents).all(axis=0)]
    return places if places.size else generator.integers(0, extents)


@lru_cache(maxsize=64)
def box_corners(shape: tuple[int, ...], sides: tuple[int, ...]) -> np.ndarray:
    """List the first pixels of all boxes, (axes, N)."""
    counts = [-(-extent // side) for extent, side in zip(shape, sides, strict=True)]
    return np.indices(counts).reshape(len(shape), -1) * np.array(sides)[:, None]


@lru_cache(maxsize=64)
def window_steps(shape: tuple[int, ...], radius: int) -> np.ndarray:
    """List the steps (K) from a pixel to those of its window in its channel, in the flat order of (C, [Z,] Y, X)."""
    extents = (1, *[2 * radius + 1] * (len(shape) - 1))
    offsets = np.indices(extents).reshape(len(shape), -1) - np.array(extents)[:, None] // 2
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return np.array(strides) @ offsets


def marked(shape: Sequence[int], places: np.ndarray) -> np.ndarray:
    """Mark places (axes, N) in a bool array."""
    found = np.zeros(shape, bool)
    found[tuple(places)] = True
    return found


def neighbours(image: np.ndarray, places: np.ndarray, radius: int, hidden: np.ndarray) -> Neighbours:
    """Look at the windows around places (axes, N); hidden pixels, bool like ``image``, are not allowed."""
    margin = (0, *[radius] * (image.ndim - 1))
    shape = tuple(extent + 2 * beyond for extent, beyond in zip(image.shape, margin, strict=True))
    core = tuple(slice(beyond, beyond + extent) for extent, beyond in zip(image.shape, margin, strict=True))
    wide, closed = np.zeros(shape, image.dtype), np.ones(shape, bool)  # nothing beyond the borders is allowed
    wide[core], closed[core] = image, hidden
    middles = np.ravel_multi_index(tuple(places + np.array(margin)[:, None]), shape)
    around = middles[:, None] + window_steps(shape, radius)  # (N, K)
    return Neighbours(wide.ravel()[around], ~closed.ravel()[around])


def draw(around: Neighbours, generator: np.random.Generator) -> np.ndarray:
    """Draw one allowed value for every place, (N), all equally likely; anything where none is allowed."""
    number = around.allowed.sum(axis=1)
    chosen = generator.integers(0, np.maximum(number, 1))
    index = (around.allowed.cumsum(axis=1) > chosen[:, None]).argmax(axis=1)
    return around.values[np.arange(len(index)), index]


def replace_at(image: np.ndarray, places: np.ndarray, values: np.ndarray, around: Neighbours) -> Blinded:
    """Put values (N) at places (axes, N) of a copy; a pixel without any allowed neighbour is left alone."""
    known = around.allowed.any(axis=1)
    index = tuple(places[:, known])
    replaced, mask = image.copy(), np.zeros(image.shape, bool)
    replaced[index] = values[known]
    mask[index] = True
    return Blinded(replaced, mask)


# --------------------------------------------------------------------------------------------------- objective


@dataclass(frozen=True)
class Noise2VoidOptions:
    """What is hidden, and the loss."""

    share: float = 0.00198
    """Part of the pixels that are hidden in a patch: 8 of 64 x 64."""
    radius: int = 2
    """Pixels to each side from which a hidden one may get its value."""
    centre: bool = True
    """A hidden pixel may get its own value, as likely as any other of its window."""
    loss: Literal["mse", "mae"] = "mse"
    """Mean of squared or of absolute errors at the hidden pixels."""

    def __post_init__(self) -> None:
        check_options(self.share, self.radius)


def check_options(share: float, radius: int) -> None:
    """Raise AbbeError where nothing or too much would be hidden, or windows hold their middle only."""
    if not 0 < share <= 0.25:
        raise AbbeError(f"options.share: {share:g}; expected a part of the pixels above 0, up to 0.25")
    if radius < 1:
        raise AbbeError(f"options.radius: {radius}; expected 1 or more pixels")


LIBRARY = Noise2VoidOptions(share=0.015, radius=5, loss="mae")
"""What the authors' library takes unless told otherwise; the recipe ``noise2void_library`` has it."""


class Noise2Void(nn.Module):
    """The objective: a network for images, trained by the pixels that it cannot see.

    Parameters
    ----------
    network
        Maps (B, C, [Z,] Y, X) to the same shape; has ``in_channels`` and ``multiple``.
    options
        What is hidden, and the ``loss``; :class:`Noise2VoidOptions`, or those of a follower that hides otherwise.
    """

    joins: Joins = "stitch"
    watch = Watch("validation_loss", "min")

    def __init__(self, network: nn.Module, options: Any = None):
        super().__init__()
        self.network = network
        self.options: Any = options or Noise2VoidOptions()

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return int(self.network.in_channels)  # type: ignore[arg-type]

    @cached_property
    def geometry(self) -> Geometry:
        """Halo of the network, found by probing."""
        multiple: Any = self.network.multiple
        multiple = (multiple,) * 2 if isinstance(multiple, int) else tuple(multiple)
        return Geometry(receptive_halo(self.network, self.in_channels, multiple), multiple, (0,) * len(multiple))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore images (B, C, [Z,] Y, X)."""
        return self.network(x)

    def hide(self, image: np.ndarray, generator: np.random.Generator) -> Blinded:
        """Hide pixels of a patch (C, [Z,] Y, X)."""
        options = self.options
        return blind(image, options.share, options.radius, generator, centre=options.centre)

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make ``image`` with hidden pixels, ``target``, the patch as it was, and ``mask``, (C, [Z,] Y, X) each.

        Pixels that a sample marks as ignored are never asked for.
        """
        target = np.ascontiguousarray(sample.image, np.float32)
        if math.prod(target.shape[1:]) < 2:
            raise AbbeError(f"{sample.name}: a patch of one pixel has no neighbours to learn from; take larger crops")
        image, mask = self.hide(target, generator)
        if sample.ignore is not None:
            mask &= ~sample.ignore
        return {name: torch.from_numpy(a) for name, a in (("image", image), ("target", target), ("mask", mask))}

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute the error at the hidden pixels."""
        error = (self.network(batch["image"]).float() - batch["target"]) * batch["mask"]
        total = error.square().sum() if self.options.loss == "mse" else error.abs().sum()
        return {"loss": total / batch_total(batch["mask"].sum()).clamp(min=1)}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Restore images, (B, C, [Z,] Y, X)."""
        return {"restored": self.network(x)}

    def decode(self, outputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        """Give the restored image of one image as it is."""
        return {"restored": outputs["restored"]}

    def score(
        self, decoded: Sequence[dict[str, np.ndarray]], truth: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Measure the mean PSNR of the images of which ``truth`` knows the ``clean`` one, of the range of that.

        The number that decides, the loss at hidden pixels of validation patches, needs no clean images.
        """
        pairs = [(d["restored"], t["clean"]) for d, t in zip(decoded, truth, strict=True) if "clean" in t]
        return (
            {"psnr": float(np.mean([psnr(found, clean, float(np.ptp(clean))) for found, clean in pairs]))}
            if pairs
            else {}
        )


VARIANTS = {
    "noise2void": Noise2VoidConfig(),
    "noise2void_library": Noise2VoidConfig(base=32, kernel=5, residual=False),
    "noise2void_small": Noise2VoidConfig(base=32, residual=False),
    "noise2void_3d": Noise2VoidConfig(base=32, pool=(2, 2, 2), residual=False),
    "noise2void_tiny": Noise2VoidConfig(base=8, residual=False),
}


def build(config: Noise2VoidConfig) -> nn.Module:
    """Build the network of a config; several channels get one each unless they are to be seen together."""
    if config.separate_channels and config.in_channels > 1:
        single = dataclasses.replace(config, in_channels=1)
        return ChannelByChannel([Noise2VoidUNet(single) for _ in range(config.in_channels)])
    return Noise2VoidUNet(config)
