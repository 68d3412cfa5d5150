"""The part of an image that a method works on: one plane, or one stack."""

from __future__ import annotations

import dataclasses
from typing import Any

from abbe.data.image import Image
from abbe.data.read import read
from abbe.errors import AbbeError
from abbe.settings import ImageSettings


def select(image: Any, settings: ImageSettings, dimensions: int = 2) -> Image:
    """Open an image and choose the plane, or with three ``dimensions`` the stack, that the settings name.

    Returns
    -------
    Image
        CYX or CZYX.
    """
    opened = image if isinstance(image, Image) else read(image, axes=settings.axes)
    chosen = opened.select(channel=settings.channel, z=settings.z, time=settings.time)
    chosen = chosen.planar() if dimensions == 2 else chosen.volume()
    if settings.pixel_size is None:
        return chosen
    if settings.pixel_size <= 0:
        raise AbbeError(f"a pixel size of {settings.pixel_size:g} µm; expected more than 0")
    return dataclasses.replace(chosen, pixel_size=chosen.pixel_size | dict.fromkeys("yx", settings.pixel_size))
