"""How large are the objects? Found by looking at a part of the image at several scales.

A network is sure of what it finds where objects have sizes that it knows from training, and unsure where they are too
large or too small. So the scale at which it is most certain tells the size. One look at the image as it is settles most
images: objects that are small, if found, are enlarged, for touching ones are told apart by more pixels. Only where that
look is unsure do others follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from abbe.tiling.grid import Box
from abbe.tiling.run import Region

SURE = 0.8
"""Certainty from which the image is taken as it is: above 0.85 for objects of known size on validation images, below
0.75 for the same images enlarged until their objects are too large."""
GAIN = 0.03
"""How much more certain another scale has to be."""
SCALES = (0.5, 0.25, 0.125, 2.0)
LARGEST = 3.0
"""Small objects are not enlarged further than this."""
WINDOW = 512
"""Pixels per side of a look, at the scale of the look."""


@dataclass(frozen=True)
class Look:
    """What a look found."""

    certainty: float
    """0 to 1; 0 without objects."""
    diameter: float
    """Of a circle with the objects' area, mean weighted by area, in pixels of the look."""


def find_scale(look: Callable[[float], Look], known: tuple[float, float]) -> float:
    """Choose the factor that brings the objects' diameters into the known range; 1 where that is not needed."""
    native = look(1.0)
    if native.certainty >= SURE:
        return min(max(known[0] / native.diameter, 1.0), LARGEST)
    looks = {scale: look(scale) for scale in SCALES}
    scale, best = max(looks.items(), key=lambda item: item[1].certainty)
    if best.certainty < native.certainty + GAIN:
        return 1.0
    diameter = best.diameter / scale
    return min(float(np.clip(diameter, *known)) / diameter, LARGEST)


def busiest_window(region: Region, shape: tuple[int, int], side: int) -> Box:
    """Choose among the centre and four places around it the window of most contrast."""
    height, width = (min(side, extent) for extent in shape)
    room = (shape[0] - height, shape[1] - width)
    places = [(0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)]
    corners = dict.fromkeys((int(room[0] * y), int(room[1] * x)) for y, x in places)
    boxes = [(y, y + height, x, x + width) for y, x in corners]
    return boxes[0] if len(boxes) == 1 else max(boxes, key=lambda box: float(region(*box).std()))
