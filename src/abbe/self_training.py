"""A model for images, learnt within minutes from them or for them: what ``abbe restore`` does where none is given.

Noise is learnt from the images themselves. Blur is not in them to be learnt: sharp scenes are simulated, blurred as the
microscope does it, and given the noise that the images have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.data.inputs import state_of
from abbe.data.noisy import same_channels
from abbe.data.normalize import Normalization
from abbe.data.select import Series
from abbe.data.write import write_text
from abbe.errors import AbbeError
from abbe.learn import noisy_lesson, restoration_lesson
from abbe.learn_deblurring import deblurring_recipe, parse_point_spread
from abbe.learn_noisy import open_frames
from abbe.lesson import teach
from abbe.model import Model, load_model
from abbe.ops.boxes import Box
from abbe.ops.noise import Noise, Verdict, estimate_noise
from abbe.report.neighbours import spread
from abbe.settings import LearnSettings, RestoreSettings
from abbe.train.recipe import Recipe, load_recipe

Tell = Callable[[str], None]
FRAMES = 12
"""Frames whose noise is looked at."""
SIDE = 1024
"""Extent of the part of them that is looked at, in pixels."""
FARTHEST = 4
"""Neighbours on each side that are hidden at most, along lines; 2 all around, or too little would be left to see."""
KEY = "key.json"
"""File that tells what was learnt from what."""
GOING_ON = "the same command goes on"
"""What to do after Ctrl-C."""
NUMBERS = ("gain", "intercept", "level", "dark")


@dataclass(frozen=True)
class NoiseLook:
    """What the noise of some images is like."""

    noises: tuple[Noise, ...]
    """Of each channel, the median of the frames that were looked at."""

    @property
    def noise(self) -> Noise:
        """That of the channel whose neighbours share most."""
        return max(self.noises, key=lambda noise: max(map(abs, (noise.horizontal[0], noise.vertical[0]))))

    @property
    def verdict(self) -> Verdict:
        """Who shares the noise; "none" where no channel has any."""
        return "none" if all(noise.verdict == "none" for noise in self.noises) else self.noise.verdict

    def __str__(self) -> str:
        """Say it in a sentence for each channel."""
        return "; ".join(
            f"channel {number}: {spell_noise(noise)}" if len(self.noises) > 1 else spell_noise(noise)
            for number, noise in enumerate(self.noises)
        )


def spell_noise(noise: Noise) -> str:
    """Say how strong the noise of a channel is and who shares it."""
    if noise.verdict == "none":
        return "no noise found"
    photons = "the same at all brightnesses"
    if noise.gain > 0:
        photons = f"{noise.gain:.3g} grey values per photon, read noise of {noise.read_noise(noise.dark):.3g} or less"
    x, y = noise.horizontal[0], noise.vertical[0]
    shares = {
        "independent": "independent from pixel to pixel",
        "horizontal": f"shared by neighbours in a row (correlation {x:.2f})",
        "vertical": f"shared by neighbours in a column (correlation {y:.2f})",
        "isotropic": f"shared by neighbours all around (correlation {x:.2f} in a row, {y:.2f} in a column)",
    }[noise.verdict]
    return f"noise of {noise.deviation(noise.level):.3g} at the median of {noise.level:.4g}, {photons}; {shares}"


@dataclass(frozen=True)
class Learned:
    """A model that was learnt from images, and what is to be said of it."""

    model: Model
    look: NoiseLook | None
    """None where the images are too small for it."""
    run: Path
    """Folder with its curves and log."""
    notes: tuple[str, ...]
    """What was found and chosen, and warnings, one sentence each."""


def learn_to_restore(
    images: Sequence[Any],
    run: Path,
    settings: RestoreSettings | None = None,
    learning: LearnSettings | None = None,
    *,
    overwrite: bool = False,
    tell: Tell = lambda line: None,
    progress: bool = True,
) -> Learned:
    """Look at the noise of images, choose how to learn from them, and do it.

    Parameters
    ----------
    images
        Paths, addresses, arrays, or what :func:`abbe.read` gave; several channels are learnt apart.
    run
        Folder for the model, its curves and log. What an earlier call with the same images and settings has learnt
        there is taken, and what it has begun is gone on with.
    settings
        Which channels, planes and time points to learn from.
    learning
        How long, and by which method.
    overwrite
        Learn anew, whatever lies in the folder.
    tell
        Gets a line for everything worth knowing.
    progress
        Show the progress of the training on standard error.

    Raises
    ------
    AbbeError
        When there is no noise in the images, none can be read, or the folder holds what was learnt from others.
    """
    settings, learning = settings or RestoreSettings(), learning or LearnSettings()
    check_settings(learning)
    opened, remarks = as_grey(_opened(images, settings, tell))
    same_channels(opened)
    look = look_at_noise(opened)
    sharpens = learning.target == "deblur"
    recipe, notes = choose_for_blur(look, opened, learning) if sharpens else choose(look, learning)
    notes = remarks + notes
    for note in notes:
        tell(note)
    begun = _open_folder(run, _key(images, settings, learning), learning.minutes, overwrite)
    if begun == "done":
        tell(f"{run}: learnt by an earlier run")
    else:
        lesson = restoration_lesson(recipe, tell) if sharpens else noisy_lesson(recipe, opened, tell)
        tell(lesson.plan)
        teach(lesson, recipe, run, resume=begun == "begun", progress=progress, going_on=GOING_ON)
    if not sharpens and (course := spell_course(run)):
        tell(course)
        notes.append(course)
    return Learned(load_model(run), look, run, tuple(notes))


def check_settings(learning: LearnSettings) -> None:
    """Refuse to learn in no time, or blur of which nothing is known."""
    if learning.psf is not None and learning.target != "deblur":
        raise AbbeError("--psf: only blur is undone with it; add --target deblur")
    if learning.target == "deblur" and learning.psf is None:
        raise AbbeError(
            "--target deblur: say with which microscope, such as --psf na=1.4,emission=520, or take the model for any "
            "with --model deblur"
        )
    if not (math.isfinite(learning.minutes) and learning.minutes > 0):
        raise AbbeError(
            f"--minutes {learning.minutes:g}: nothing is learnt in that; give a number above 0, or a model that has "
            "learnt already with --model"
        )


def _opened(images: Sequence[Any], settings: RestoreSettings, tell: Tell) -> list[Series]:
    """Open what can be opened; the others are told, and fail again when they are to be restored."""
    opened, reasons = [], []
    for image in images:
        try:
            opened += open_frames([image], settings, 2)
        except AbbeError as error:
            reasons.append(str(error))
    if not opened:
        raise AbbeError(reasons[0] if reasons else "no images to learn from")
    for reason in reasons:
        tell(f"not learnt from: {reason}")
    return opened


def as_grey(images: list[Series]) -> tuple[list[Series], list[str]]:
    """See colour images with three equal channels as grey ones, and say so; others are given back."""
    if not all(series.image.rgb and series[0].n_channels > 1 for series in images):
        return images, []
    read = [_middle_of(series, frame) for series, frame in frames_to_look_at(images)]
    parts = [part for part in read if part is not None]
    if not parts or any((part != part[:1]).any() for part in parts):
        return images, []
    first = [Series(series.image.select(channel=0), series.axes, series.dimensions) for series in images]
    return first, ["red, green and blue are equal: the images are learnt from as grey ones"]


def _open_folder(run: Path, key: str, minutes: float, overwrite: bool) -> str:
    """See what lies in the folder of a run: "" for nothing, "begun", or "done"."""
    if overwrite:
        shutil.rmtree(run, ignore_errors=True)
    known = json.loads((run / KEY).read_text(encoding="utf-8")) if (run / KEY).is_file() else None
    if known is not None and known != key:
        raise AbbeError(
            f"{run}: was learnt from other images or with other options; take it as it is with --model {run} and "
            "another --out, or learn anew with --overwrite"
        )
    write_text(run / KEY, json.dumps(key))
    if (run / "model.safetensors").exists():
        learnt = load_recipe(run / "recipe.toml").train.minutes
        if learnt != minutes:
            raise AbbeError(
                f"{run}: has learnt with --minutes {learnt:g} and is done; take it as it is with that, or learn anew "
                f"with --minutes {minutes:g} and --overwrite, or another --out"
            )
        return "done"
    return "begun" if (run / "recipe.toml").exists() else ""


def _key(images: Sequence[Any], settings: RestoreSettings, learning: LearnSettings) -> str:
    """Tell what is learnt from what apart; an array has no identity, and is learnt from anew.

    The time is left out: what was begun may go on for longer.
    """
    states = [state_of(image) if isinstance(image, Path | str) else str(id(image)) for image in images]
    which = {name: getattr(settings, name) for name in ("axes", "channel", "z", "time")}
    how = {name: value for name, value in dataclasses.asdict(learning).items() if name != "minutes"}
    told = json.dumps([states, which, how], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def spell_course(run: Path) -> str:
    """Say how the loss at pixels that the network cannot see has fallen; nothing where it was not validated."""
    table = run / "curves.csv"
    history = pd.read_csv(table) if table.is_file() else pd.DataFrame()
    losses = history["validation_loss"].dropna() if "validation_loss" in history else pd.Series(dtype=float)
    if losses.empty:
        return ""
    if len(losses) == 1:
        return f"blind-spot loss {losses.iloc[0]:.4g}, validated once"
    return (
        f"blind-spot loss {losses.iloc[0]:.4g} at the first validation, {losses.iloc[-1]:.4g} at the last, "
        f"{losses.min():.4g} at the best, which is kept"
    )


# -------------------------------------------------------------------------------------------------------- the noise


def look_at_noise(images: Sequence[Series]) -> NoiseLook | None:
    """Measure the noise in the middle of some frames of all images, channel by channel; None where all are small.

    Raises
    ------
    AbbeError
        Where no pixel there has a value.
    """
    read = [_middle_of(series, frame) for series, frame in frames_to_look_at(images)]
    parts = [part for part in read if part is not None]
    if parts and not any(np.isfinite(part).any() for part in parts):
        raise AbbeError(f"{images[0].image.name}: no pixel with a value, all are NaN or infinite; nothing to restore")
    found = [noises for part in parts if (noises := _noises_of(part))]
    if not found:
        return None
    return NoiseLook(tuple(map(median_noise, zip(*found, strict=True))))


def frames_to_look_at(images: Sequence[Series]) -> list[tuple[Series, int]]:
    """Choose some frames of all images, evenly."""
    places = [(series, frame) for series in images for frame in spread(len(series), FRAMES)]
    return [places[i] for i in spread(len(places), FRAMES)]


def _middle_of(series: Series, frame: int) -> np.ndarray | None:
    """Read the middle of a frame; None where it cannot be read."""
    image = series[frame]
    try:
        return image.box(middle(image.extents))
    except Exception:  # whatever a damaged file makes its reader raise; the image fails when it is restored
        return None


def _noises_of(part: np.ndarray) -> list[Noise]:
    """Measure the noise of the channels of a part (C, Y, X); nothing where it is too small."""
    try:
        return [estimate_noise(channel) for channel in part]
    except AbbeError:
        return []


def middle(extents: Sequence[int]) -> Box:
    """Give the box in the middle, of at most ``SIDE`` pixels along Y and X."""
    sides = [min(extent, SIDE) for extent in extents]
    starts = [(extent - side) // 2 for extent, side in zip(extents, sides, strict=True)]
    return tuple((start, start + side) for start, side in zip(starts, sides, strict=True))


def median_noise(noises: Sequence[Noise]) -> Noise:
    """Take the median of everything that was measured, of the frames that have noise if some have."""
    noisy = [noise for noise in noises if noise.verdict != "none"] or list(noises)
    gain, intercept, level, dark = (float(np.median([getattr(n, name) for n in noisy])) for name in NUMBERS)
    sides = ([getattr(n, name) for n in noisy] for name in ("horizontal", "vertical"))
    horizontal, vertical = (tuple(np.median(side, axis=0).tolist()) for side in sides)
    return Noise(gain, intercept, horizontal, vertical, level, dark)


# ------------------------------------------------------------------------------------------------------- the choice


def choose(look: NoiseLook | None, learning: LearnSettings) -> tuple[Recipe, list[str]]:
    """Choose a method for the noise that was found, and say why.

    Raises
    ------
    AbbeError
        Where there is no noise, or nothing is known of it, and no method was asked for.
    """
    if look is None:
        if learning.method == "auto":
            raise AbbeError(
                "the images are too small to measure their noise; restore them without learning by --model denoise, or "
                "choose a method: --method noise2void"
            )
        return recipe_of(learning.method, UNKNOWN, learning), [f"noise not measured: {METHODS[learning.method]}"]
    if look.verdict == "none" and learning.method == "auto":
        raise AbbeError(
            "no noise found in the images, which are constant or were smoothed already: there is nothing to learn from "
            "it; leave them as they are, or choose a method with --method"
        )
    method = learning.method
    if method == "auto":
        method = "noise2void" if look.verdict in ("none", "independent") else "structn2v"
    notes = [f"{look}: {METHODS[method]}"]
    if look.verdict == "isotropic":
        notes.append(
            "warning: noise that neighbours share all around is that of images that were enlarged, registered, "
            "demosaiced or compressed; restore them before that if you can, much of it will stay"
        )
    elif look.verdict in ("horizontal", "vertical") and method != "structn2v":
        notes.append("warning: neighbours share their noise, which this method takes for image; it will stay")
    return recipe_of(method, look.noise, learning), notes


UNKNOWN = Noise(0.0, 1.0, (1.0,) * FARTHEST + (0.0,), (0.0,) * (FARTHEST + 1), 0.0)
"""Noise of which nothing is known: that of rows, should it be asked for."""
METHODS = {
    "noise2void": "learning by Noise2Void",
    "n2v2": "learning by N2V2",
    "structn2v": "learning by structN2V, with the neighbours that share it hidden",
}


def choose_for_blur(
    look: NoiseLook | None, images: Sequence[Series], learning: LearnSettings
) -> tuple[Recipe, list[str]]:
    """Write the recipe that undoes a microscope's blur, at the noise and the contrast of the first image.

    Raises
    ------
    AbbeError
        Where the microscope is not understood, or the pixel size is unknown.
    """
    assert learning.psf is not None
    microscope, first = parse_point_spread(learning.psf), images[0][0]
    pixel_size = microscope.pixels(first.pixel_size.get("x"))
    noise = look.noise if look is not None and look.verdict != "none" else None
    contrast = Normalization(**load_recipe("deblur").data.normalization).statistics(first.box, first.extents)
    recipe = deblurring_recipe(microscope, pixel_size, noise, learning.minutes, contrast=contrast)
    recipe.train.seed = learning.seed
    warning = microscope.warning(pixel_size)
    seen = f"{look}; " if look is not None else ""
    notes = [f"{seen}learning to undo the blur of {learning.psf} at {pixel_size:g} µm per pixel from simulated scenes"]
    return recipe, notes + ([f"warning: {warning}"] if warning else [])


def recipe_of(method: str, noise: Noise, learning: LearnSettings) -> Recipe:
    """Fit the recipe of a method to a kind of noise and to the time there is."""
    hidden = {f"options.{name}": value for name, value in options_of(method, noise).items()}
    timing = {"train.minutes": learning.minutes, "train.seed": learning.seed}
    return load_recipe(method, {"name": "learned", "data.sources": ["the images themselves"], **timing, **hidden})


def options_of(method: str, noise: Noise) -> dict[str, Any]:
    """Choose what is hidden beside the pixels asked for: those that share their noise."""
    if method != "structn2v":
        return {}
    reach = min(max(noise.reach, 1), FARTHEST)
    if noise.verdict == "isotropic":
        side = 2 * min(reach, 2) + 1
        return {"radius": side, "element": ((1,) * side,) * side}
    direction = noise.verdict if noise.verdict in ("horizontal", "vertical") else "horizontal"
    return {"radius": reach, "direction": direction, "reach": reach}
