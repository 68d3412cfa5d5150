"""The channels of an image matched to those a network takes."""

from __future__ import annotations

import numpy as np

from abbe.errors import AbbeError

LUMINANCE = np.array([0.2125, 0.7154, 0.0721], np.float32)  # ITU-R BT.709


def match_channels(pixels: np.ndarray, in_channels: int, name: str = "image") -> np.ndarray:
    """Grey is repeated for an RGB network, RGB becomes luminance for a grey one; nothing else is guessed.

    Parameters
    ----------
    pixels
        (C, Y, X) or (C, Z, Y, X), float32.
    in_channels
        What the network takes.
    name
        The image, for the message.

    Raises
    ------
    AbbeError
        When the numbers of channels do not fit and a channel has to be chosen.
    """
    channels = len(pixels)
    if channels == in_channels:
        return pixels
    if channels == 1 and in_channels == 3:
        return np.repeat(pixels, 3, axis=0)
    if channels == 3 and in_channels == 1:
        return np.tensordot(LUMINANCE, pixels, 1)[None]
    wanted = "1 or 3 channels" if in_channels in (1, 3) else f"{in_channels} channels"
    raise AbbeError(f"{name}: {channels} channels, but the model takes {wanted}; choose one with --channel")
