"""StructN2V: a blind spot as long as the noise is.

Broaddus, Krull, Weigert, Schmidt, Myers, "Removing Structured Noise with Self-Supervised Blind-Spot Networks", ISBI
2020, doi:10.1109/ISBI45749.2020.9098336. Where the noise of a pixel can be read from its neighbours in the line, as
with the lines of a camera or a scanner, Noise2Void (:mod:`.noise2void`, arXiv:1811.10980) learns the noise too. So all
pixels that share it are hidden together: an extended blind mask, here an *element* around every chosen pixel. The
network, the choice of pixels and the loss, which is that of the middle pixel only, are Noise2Void's::

    Noise2Void   . . . . . . .      horizontal, reach 2   . . . . . . .      vertical   . . # . .
                 . . . # . . .                            . # # M # # .                 . . M . .
                 . . . . . . .                            . . . . . . .                 . . # . .

    M: hidden and asked for     #: hidden     .: seen

What is hidden gets random values of a uniform distribution from -2 to 2, in units of the deviation of the normalised
image, or with ``fill = "window"`` the values of pixels around it, drawn from those that are not hidden. The first is
the paper's and the default here; the recipe and ``abbe restore`` take the second, with which a network that learns for
minutes comes much farther (``abbe reproduce noise2void``).

Against the authors' library: the middle pixel gets such a value as well (there one of its window, of which some share
its noise), and at the border of a patch the element is cut (there its values are pushed in, onto the middle too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from abbe.errors import AbbeError
from abbe.methods.restoration.noise2void import (
    Blinded,
    Noise2Void,
    Noise2VoidConfig,
    box_sides,
    check_options,
    draw,
    marked,
    neighbours,
    stratified_places,
)
from abbe.methods.restoration.noise2void import build as build_noise2void

Fill = Literal["uniform", "window"]
BOUND = 2.0
"""Random values lie between minus this and this, in standard deviations of the image."""


@dataclass(frozen=True)
class StructN2VOptions:
    """What is hidden, and the loss."""

    direction: Literal["horizontal", "vertical"] = "horizontal"
    """Along which axis, X or Y, neighbours share their noise."""
    reach: int = 4
    """How many pixels on each side share it."""
    element: tuple[Any, ...] = ()
    """Rows (of planes) of 0 and 1 instead of ``direction`` and ``reach``: which pixels share the noise of the middle
    one. Extents are odd; what has fewer axes than the image lies in the last ones."""
    fill: Fill = "uniform"
    """Whether hidden pixels get random values, or those of others nearby."""
    share: float = 0.00198
    """Part of the pixels that the network is asked for in a patch: 8 of 64 x 64."""
    radius: int = 2
    """Pixels to each side from which a hidden one may get its value, with ``fill = "window"``."""
    loss: Literal["mse", "mae"] = "mse"
    """Mean of squared or of absolute errors at the pixels asked for."""

    def __post_init__(self) -> None:
        check_options(self.share, self.radius)
        if self.reach < 1:
            raise AbbeError(f"options.reach: {self.reach}; expected 1 or more pixels")
        self.hidden_pixels()

    def hidden_pixels(self) -> np.ndarray:
        """Give the element as a bool array of odd extents, its middle included.

        Raises
        ------
        AbbeError
            Where ``element`` is no array of odd extents.
        """
        if not self.element:
            line = np.ones(2 * self.reach + 1, bool)
            return line[None] if self.direction == "horizontal" else line[:, None]
        try:
            hidden = np.array(self.element, dtype=bool)
        except ValueError:
            raise AbbeError("options.element: rows of different lengths; expected a grid of 0 and 1") from None
        if hidden.ndim not in (2, 3) or not all(extent % 2 for extent in hidden.shape):
            raise AbbeError(f"options.element: extents {hidden.shape}; expected two or three, all odd")
        hidden[tuple(extent // 2 for extent in hidden.shape)] = True
        return hidden


class StructN2V(Noise2Void):
    """The objective of Noise2Void with an element hidden around every pixel asked for."""

    options: StructN2VOptions

    def __init__(self, network: nn.Module, options: StructN2VOptions | None = None):
        super().__init__(network, options or StructN2VOptions())
        self.element = self.options.hidden_pixels()

    def hide(self, image: np.ndarray, generator: np.random.Generator) -> Blinded:
        """Hide the elements around pixels of a patch (C, [Z,] Y, X)."""
        options = self.options
        return blind_element(image, self.element, options.share, options.radius, generator, options.fill)


def blind_element(
    image: np.ndarray,
    element: np.ndarray,
    share: float,
    radius: int,
    generator: np.random.Generator,
    fill: Fill = "uniform",
) -> Blinded:
    """Hide an element around one pixel in every box.

    Parameters
    ----------
    image
        (C, [Z,] Y, X), normalised; every channel has boxes of its own.
    element
        Bool, odd extents, of the image's last axes: what is hidden around a pixel.
    share
        Part of the pixels that the network is asked for.
    radius, fill
        See :class:`StructN2VOptions`.
    generator
        Of places and values.

    Returns
    -------
    Blinded
        The mask has the middle pixels only.
    """
    middles = stratified_places(image.shape, box_sides(image.shape, share), generator)
    hidden = marked(image.shape, spread(middles, element, image.shape))
    replaced = image.copy()
    if fill == "uniform":
        replaced[hidden] = generator.uniform(-BOUND, BOUND, np.count_nonzero(hidden))
    else:
        replaced[hidden] = seen_values(image, hidden, radius, generator)
    return Blinded(replaced, marked(image.shape, middles))


def spread(middles: np.ndarray, element: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Give the places (axes, N) of an element around each of some others, those inside an image only."""
    whole = element.reshape((1,) * (len(shape) - element.ndim) + element.shape)
    offsets = np.argwhere(whole).T - np.array(whole.shape)[:, None] // 2
    places = (middles[:, :, None] + offsets[:, None, :]).reshape(len(shape), -1)
    return places[:, ((places >= 0) & (places < np.array(shape)[:, None])).all(axis=0)]


def seen_values(image: np.ndarray, hidden: np.ndarray, radius: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a value for every hidden pixel from those in its window that are not; 0, the mean, where all of them are."""
    around = neighbours(image, np.array(hidden.nonzero()), radius, hidden)
    return np.where(around.allowed.any(axis=1), draw(around, generator), 0)


VARIANTS = {
    "structn2v": Noise2VoidConfig(),
    "structn2v_small": Noise2VoidConfig(base=32, residual=False),
    "structn2v_3d": Noise2VoidConfig(base=32, pool=(2, 2, 2), residual=False),
    "structn2v_tiny": Noise2VoidConfig(base=8, residual=False),
}


def build(config: Noise2VoidConfig) -> nn.Module:
    """Build Noise2Void's network."""
    return build_noise2void(config)
