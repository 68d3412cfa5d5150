"""Pictures of digits, a task of ten classes that needs no download.

They are handwritten where scikit-learn is installed, which brings 1,797 of 8 x 8 pixels (E. Alpaydin, C. Kaynak, UCI
repository, 1998), and enlarged; otherwise drawn in the fonts that come with matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from abbe.data.resample import resize
from abbe.data.synthetic import grain

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral")
"""Files of matplotlib, without suffix."""
CLASSES = 10
CANVAS = 96
"""Digits are drawn on a larger canvas and scaled down, so that their edges are smooth."""
SIZES = (64, 92)
"""Smallest and largest height of a font on the canvas, in pixels."""
TURN, SHIFT = 25.0, 8.0
"""Largest angle in degrees, and largest way from the middle of the canvas in pixels."""
NOISE = 0.15
"""Standard deviation of the grain and of the noise, in units of the contrast."""


def handwritten_digits(side: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Take the digits of scikit-learn, enlarged; None where it is not installed.

    Returns
    -------
    pictures : numpy.ndarray
        (1797, 1, side, side), float32, ink 1 on 0.
    classes : numpy.ndarray
        (1797,), int64.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    found = load_digits()
    small = found.images.astype(np.float32) / 16
    return resize(small, (side, side))[:, None], found.target.astype(np.int64)


def draw_digits(number: int, side: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits, turned, shifted, of several fonts and sizes, bright on grainy ground.

    Returns
    -------
    pictures : numpy.ndarray
        (N, 1, side, side), float32.
    classes : numpy.ndarray
        (N,), int64; every digit as often as every other one, give or take one.
    """
    classes = generator.permutation(np.arange(number) % CLASSES)
    return np.stack([draw_digit(int(digit), side, generator) for digit in classes])[:, None], classes


def draw_digit(digit: int, side: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one, (side, side), float32."""
    font = ImageFont.truetype(font_path(generator.choice(FONTS)), int(generator.integers(*SIZES)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    place = CANVAS / 2 + generator.uniform(-SHIFT, SHIFT, 2)
    ImageDraw.Draw(canvas).text(tuple(place), str(digit), fill=255, font=font, anchor="mm")
    turned = canvas.rotate(float(generator.uniform(-TURN, TURN)), Image.Resampling.BILINEAR)
    shape = np.asarray(turned.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    ground = NOISE * (grain(shape.shape, 3.0, generator) + generator.standard_normal(shape.shape))
    return (shape + ground).astype(np.float32)


def font_path(name: str) -> str:
    """Find a font of matplotlib."""
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")
