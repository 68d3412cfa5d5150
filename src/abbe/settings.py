"""The options of the verbs. The text under a field is its documentation and the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abbe.errors import AbbeError


@dataclass(frozen=True)
class ImageSettings:
    """Which planes of an image to take."""

    axes: str | None = None
    """Names of the image's axes in order, letters of TCZYX, where the file does not tell them."""
    channel: int | str | None = None
    """Channel to take, by number from 0 or by name, or all of them one by one."""
    z: int | Literal["all"] | None = None
    """Plane to take of a z stack, from 0, or all of them one by one; a model of volumes takes the whole stack."""
    time: int | Literal["all"] | None = None
    """Time point to take of a series, from 0, or all of them one by one."""
    pixel_size: float | None = None
    """µm per pixel, in place of what the file says."""
    z_step: float | None = None
    """µm between the planes of a stack, in place of what the file says."""


@dataclass(frozen=True)
class ComputeSettings:
    """Where and how to compute."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["auto", "bfloat16", "float32", "exact"] = "auto"
    """auto is the prepared path, in bfloat16 where the processor has it; exact is the plain float32 forward."""
    backend: Literal["auto", "torch", "openvino"] = "auto"
    """auto takes OpenVINO on a CPU where it is installed (the extra "fast")."""
    tile: int | None = None
    """Pixels per side that the network sees at once; unless given, 1280 on a CPU, 2048 on a GPU, less of volumes."""


@dataclass(frozen=True)
class ObjectSettings:
    """Which objects to keep."""

    diameter: float | None = None
    """Typical diameter of an object in pixels; estimated from the image unless given."""
    min_area: int | None = None
    """Smallest object to keep, in pixels; the model's own limit unless given."""
    drop_border: bool = False
    """Leave out objects that touch the border of the image."""


@dataclass(frozen=True)
class StainSettings:
    """What to see of stained tissue."""

    stains: Literal["auto", "off", "h-dab"] | None = None
    """h-dab takes colours apart into haematoxylin, in which nuclei are looked for, and DAB, and measures both; auto
    does so where there is brown beside blue, off never; what the model says unless given."""


@dataclass(frozen=True)
class SegmentSettings(ImageSettings, ObjectSettings, StainSettings, ComputeSettings):
    """Everything that changes the labels of an image."""


@dataclass(frozen=True)
class RestoreSettings(ImageSettings, ComputeSettings):
    """Everything that changes a restored image."""

    precision: Literal["auto", "bfloat16", "float32", "exact"] = "float32"
    """float32 keeps what 16 bits hold; bfloat16, and auto where the processor has it, about 8 of them; exact is the
    plain forward."""
    dtype: Literal["keep", "float32"] = "keep"
    """Type of what is written: keep: that of the image, whole numbers rounded and held within it; or fractions."""
    clip: tuple[float, float] | None = None
    """Smallest and largest value that may come out; nothing is cut off unless given, but what the type cannot hold."""
    flips: bool = False
    """Restore every image flipped and turned in all eight ways and take the mean: a little better, eight times as
    slow."""

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise AbbeError(f"--clip {self.clip[0]:g} {self.clip[1]:g}: expected the smaller value first")


@dataclass(frozen=True)
class LearnSettings:
    """How to learn, where no model is given."""

    minutes: float = 10.0
    """Time to learn, at most."""
    target: Literal["denoise", "deblur"] = "denoise"
    """denoise learns from the noisy images alone; deblur from simulated scenes, blurred as --psf says, with their
    noise."""
    psf: str | None = None
    """The microscope whose blur is to be undone, such as na=1.4,emission=520 (in nm); further index (of the immersion,
    1.518), microscope (widefield or confocal) and pixel (in µm, where the image does not say)."""
    method: Literal["auto", "noise2void", "n2v2", "structn2v"] = "auto"
    """auto looks at the noise: noise2void where it is independent from pixel to pixel, else structn2v, which hides the
    neighbours that share it."""
    seed: int = 0
    """Of all random choices."""


@dataclass(frozen=True)
class ClassifySettings(ImageSettings, ComputeSettings):
    """Everything that changes the classes of an image or of its objects."""

    object_side: int | None = None
    """Side in pixels of the square cut around an object, in place of what the model says."""
    object_margin: float | None = None
    """Context on each side of an object, as a share of its longer side, in place of what the model says."""
    contrast: Literal["model", "range", "percentile"] = "model"
    """How grey values become 0 to 1: as the model says; by what the file's type can hold; by percentiles of the image,
    which shows weights of photographs a 12-bit image in a 16-bit file as more than black."""
    size: int | None = None
    """Side in pixels of the square that the network sees, in place of what the model says."""


@dataclass(frozen=True)
class EmbedSettings(ClassifySettings):
    """Everything that changes the vector of an image or of an object."""

    layer: str | None = None
    """Layer whose features are taken, such as stages.2, blocks.5 or patches; those before the last layer unless
    given."""
