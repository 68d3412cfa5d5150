"""The claims of papers that can be tried in minutes, in one literal table; looking here imports no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from abbe.errors import AbbeError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the file that tries it."""

    name: str
    """As ``abbe reproduce`` takes it."""
    module: str
    """Dotted name of the file; its ``run(settings, tell)`` tries the claim and gives a :class:`Found`."""
    title: str
    """The claim in one sentence."""
    paper: str
    """Where to find the paper: arXiv id or DOI, as in the catalog."""
    minutes: float
    """How long it takes on two cores, about."""
    data: str = ""
    """What ``--data`` takes; empty where it takes nothing."""
    file: bool = False
    """Whether that is a file, not a folder."""


@dataclass(frozen=True)
class ClaimSettings:
    """What can be chosen of a run."""

    data: Path | None = None
    """Images or text to use in place of those that come with a library."""
    seed: int = 0
    """Of all random choices."""


@dataclass
class Found:
    """What came of a run."""

    holds: bool
    """Whether the claim holds in it."""
    sentence: str
    """What was found, with its numbers, true whether or not the claim holds."""
    table: pd.DataFrame
    """The numbers behind it."""
    figure: Figure
    """Made without pyplot, so that nothing of it stays behind."""


PHOTOGRAPHS = "a folder of good images, of 128 x 128 pixels or more"

CLAIMS: dict[str, Claim] = {
    "resnet": Claim(
        "resnet",
        "abbe.reproduce.resnet",
        "A deeper plain network has a higher training error, a deeper residual network has not.",
        "arXiv:1512.03385",
        3,
        "a folder of images for each class, of 32 x 32 pixels or scaled to it",
    ),
    "convnext": Claim(
        "convnext",
        "abbe.reproduce.convnext",
        "Single steps lead from ResNet-50 to ConvNeXt-T, at the costs of the paper's Figure 2.",
        "arXiv:2201.03545",
        0.2,
    ),
    "internimage": Claim(
        "internimage",
        "abbe.reproduce.internimage",
        "The points of a deformable convolution follow the object, and its effective receptive field is larger.",
        "arXiv:2211.05778",
        3,
    ),
    "transformer": Claim(
        "transformer",
        "abbe.reproduce.transformer",
        "The decoder's cache changes nothing but the time; schedule and label smoothing make the network better.",
        "arXiv:1706.03762",
        5,
    ),
    "vit": Claim(
        "vit",
        "abbe.reproduce.vit",
        "Deeper layers look farther, some heads look far from the first, and without positions the network is worse.",
        "arXiv:2010.11929",
        5,
        "a folder of images for each class, of 32 x 32 pixels or scaled to it",
    ),
    "roformer": Claim(
        "roformer",
        "abbe.reproduce.roformer",
        "Scores of rotary positions depend on the distance alone, fall with it, and learn faster than sinusoids.",
        "arXiv:2104.09864",
        4,
        "a text file in English, in place of the documentation that comes with Python",
        file=True,
    ),
    "dncnn": Claim(
        "dncnn",
        "abbe.reproduce.dncnn",
        "Residual learning and batch norm together beat either alone; one blind network covers many levels of noise.",
        "arXiv:1608.03981",
        2,
        PHOTOGRAPHS,
    ),
    "noise2void": Claim(
        "noise2void",
        "abbe.reproduce.noise2void",
        "Without clean images nearly as good as with them, unless neighbours share the noise, which StructN2V mends.",
        "arXiv:1811.10980",
        2,
        PHOTOGRAPHS,
    ),
    "nafnet": Claim(
        "nafnet",
        "abbe.reproduce.nafnet",
        "A network without activation functions loses nothing.",
        "arXiv:2204.04676",
        2,
        PHOTOGRAPHS,
    ),
}


def claim_of(name: str) -> Claim:
    """Look a claim up.

    Raises
    ------
    AbbeError
        When there is none of that name; the sentence lists those there are.
    """
    if name not in CLAIMS:
        near = difflib.get_close_matches(name, CLAIMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AbbeError(f"no claim is called {name!r}; there are {', '.join(CLAIMS)}{hint}")
    return CLAIMS[name]
