"""What a method promises: the one thing that training, tiling and the methods share.

A *network* is a plain ``torch.nn.Module`` whose ``forward`` takes the paper's inputs. A *method* is what can be
trained and used: a module that holds its network and has the functions of :class:`Method`. Nothing registers
itself, nothing inherits: whoever has these functions is a method. A module whose recorded graph would hold at one
extent of its input only says so with ``traceable = False``; tiling then keeps its network in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

Joins = Literal["stitch", "merge", "whole", "sequence"]


@dataclass(frozen=True)
class Geometry:
    """How a network's output lies on its input, per spatial axis (Z before Y before X), in input pixels."""

    halo: tuple[int, ...] | None
    """Context on each side that makes a tile's centre equal to the whole image's; None: it needs the whole."""
    multiple: tuple[int, ...]
    """Input extents are ``multiple * k + remainder``; tiles start at multiples of it."""
    remainder: tuple[int, ...] = (0, 0)
    """See ``multiple``; other than zero for unpadded networks."""
    crops: bool = False
    """True where the output already lacks the halo on every side (unpadded convolutions)."""
    exact: bool = True
    """False where the context reaches farther than the halo, and tiles nearly equal the whole image."""


class Watch(NamedTuple):
    """The number that decides which checkpoint is best."""

    name: str
    mode: Literal["max", "min"]


@runtime_checkable
class Method(Protocol):
    """What training and tiling ask of a method. Shapes: B batch, C channels, then the spatial axes."""

    @property
    def in_channels(self) -> int:
        """Channels of the image that the network takes."""

    @property
    def geometry(self) -> Geometry:
        """Halo, multiple and crop of the network."""

    @property
    def joins(self) -> Joins:
        """How tiles come together: stitched maps, merged objects, the whole at once, a sequence."""

    @property
    def watch(self) -> Watch:
        """The deciding number of ``score`` and its direction."""

    def prepare(self, sample: Any, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Turn one annotated :class:`~abbe.data.sample.Sample` into the tensors of the loss, without a batch axis."""

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute named losses of a batch, the same names every time; ``"loss"`` is descended, the others are logged.

        Each is a mean over samples, or divided by a count that went through :func:`abbe.ops.totals.batch_total`; then
        processes that share a batch have its loss between them.
        """

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute named maps on the network's grid, (B, C, ...)."""

    def decode(self, outputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        """Turn the stitched maps of one image, (C, ...), into arrays in its own pixels, such as ``labels``.

        Where ``joins`` is "merge" it gives ``labels``, 1..n, and ``regions``, the connected regions of foreground, each
        of which it treats by itself; pixels of the mask ``exclude`` count as background.
        """

    def score(
        self, decoded: Sequence[dict[str, np.ndarray]], truth: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Measure a whole data set, image by image in the same order."""


@runtime_checkable
class KnowsItsSize(Method, Protocol):
    """A method that can tell whether objects have a size that it knows; see :mod:`abbe.size`."""

    def certainty(self, outputs: dict[str, np.ndarray], decoded: dict[str, np.ndarray]) -> float:
        """Tell how sure it is of what it decoded, 0 to 1."""
