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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.data.image import Image
from abbe.data.inputs import state_of
from abbe.data.noisy import same_channels
from abbe.data.normalize import Normalization, Statistics
from abbe.data.select import Series
from abbe.data.write import write_text
from abbe.errors import AbbeError
from abbe.learn import noisy_lesson, restoration_lesson
from abbe.learn_deblurring import deblurring_recipe, parse_point_spread
from abbe.learn_noisy import open_frames
from abbe.lesson import teach
from abbe.model import Model, load_model
from abbe.noise_look import NoiseLook, frames_to_look_at, look_at_noise, middle_of
from abbe.ops.noise import Noise
from abbe.settings import LearnSettings, RestoreSettings
from abbe.tiling.grid import plan
from abbe.train.recipe import Recipe, load_recipe

Tell = Callable[[str], None]
FARTHEST = 4
"""Neighbours on each side that are hidden at most, along lines; 2 all around, or too little would be left to see."""
KEY = "key.json"
"""File that tells what was learnt from what."""
GOING_ON = "the same command goes on"
"""What to do after Ctrl-C."""
SAMPLED = 512
"""Values along an axis, at least, by which an array is told from another."""


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
    others: Sequence[Any] = (),
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
    others
        What is to be restored, where that is not what is learnt from: it has to have as many channels.
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
    channels = same_channels(opened)
    sharpens = learning.target == "deblur"
    if not sharpens:
        check_channels(others, channels, settings)
    look = look_at_noise(opened)
    recipe, notes = choose_for_blur(look, opened, learning) if sharpens else choose(look, learning)
    notes = remarks + notes
    for note in notes:
        tell(note)
    key = _key(images, settings, learning)
    begun = _look_into(run, key, learning.minutes, overwrite)
    if begun == "done":
        tell(f"{run}: learnt by an earlier run")
    else:
        lesson = restoration_lesson(recipe, tell) if sharpens else noisy_lesson(recipe, opened, tell)
        if settings.tile and (halo := lesson.method.geometry.halo) is not None:
            sides = (settings.tile,) * len(halo)
            plan(opened[0][0].extents[-len(halo) :], lesson.method.geometry, sides)  # refuses what leaves no room
        if not begun:
            _make_folder(run, key)
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


def check_channels(images: Sequence[Any], channels: int, settings: RestoreSettings) -> None:
    """Refuse to learn from so many channels what is to restore images of other numbers, as far as these can be read."""
    for image in images:
        with suppress(AbbeError):
            (series,) = open_frames([image], settings, 2)
            found = series[0].n_channels
            if channels > 1 and found != channels:
                break
    else:
        return
    raise AbbeError(
        f"{series.image.name}: {found} channel{'s' * (found > 1)}, but {channels} in the images to learn from; choose "
        "one with --channel"
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
    read = [middle_of(series, frame) for series, frame in frames_to_look_at(images)]
    parts = [part for part in read if part is not None]
    if not parts or any((part != part[:1]).any() for part in parts):
        return images, []
    first = [Series(series.image.select(channel=0), series.axes, series.dimensions) for series in images]
    return first, ["red, green and blue are equal: the images are learnt from as grey ones"]


def _look_into(run: Path, key: str, minutes: float, overwrite: bool) -> str:
    """See what lies in the folder of a run: "" for nothing or what is to be replaced, "begun", or "done"."""
    known = _known_key(run)
    if known is None and run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise AbbeError(
            f"{run}: not what Abbe has learnt from images, but its model would go there; choose another --out"
        )
    if overwrite or known is None:
        return ""
    if known != key:
        raise AbbeError(
            f"{run}: was learnt from other images or with other options; take it as it is with --model {run} and "
            "another --out, or learn anew with --overwrite"
        )
    if (run / "model.safetensors").exists():
        learnt = load_recipe(run / "recipe.toml").train.minutes
        if learnt != minutes:
            raise AbbeError(
                f"{run}: has learnt with --minutes {learnt:g} and is done; take it as it is with that, or learn anew "
                f"with --minutes {minutes:g} and --overwrite, or another --out"
            )
        return "done"
    return "begun" if (run / "recipe.toml").exists() else ""


def _known_key(run: Path) -> str | None:
    """Read what the model of a folder was learnt from; None where the folder is none of ours."""
    try:
        return str(json.loads((run / KEY).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _make_folder(run: Path, key: str) -> None:
    """Begin a folder anew, with what is to be learnt in it."""
    shutil.rmtree(run, ignore_errors=True)
    write_text(run / KEY, json.dumps(key))


def _key(images: Sequence[Any], settings: RestoreSettings, learning: LearnSettings) -> str:
    """Tell what is learnt from what apart.

    The time is left out: what was begun may go on for longer.
    """
    states = [state_of(image) if isinstance(image, Path | str) else _state_of_pixels(image) for image in images]
    which = {name: getattr(settings, name) for name in ("axes", "channel", "z", "time")}
    how = {name: value for name, value in dataclasses.asdict(learning).items() if name != "minutes"}
    told = json.dumps([states, which, how], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _state_of_pixels(image: Any) -> str:
    """Tell an image in memory by its shape, its type and some of its values; one of a file by that."""
    if isinstance(image, Image):
        if image.path is not None:
            return f"{state_of(image.path)} {image.axes} {image.shape}"
        image = image.data
    step = tuple(slice(None, None, max(extent // SAMPLED, 1)) for extent in image.shape)
    values = np.ascontiguousarray(image[step])
    return f"{image.shape} {image.dtype} {hashlib.sha256(values.tobytes()).hexdigest()}"


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
    elif look.verdict in ("horizontal", "vertical"):
        beyond = look.noise.reach > FARTHEST
        stay = f", of which {FARTHEST} on each side are hidden: what whole lines share will stay" if beyond else ""
        notes.append(
            f"warning: stripes: {'rows' if look.verdict == 'horizontal' else 'columns'} share their noise{stay}"
        )
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
    """Write the recipe that undoes a microscope's blur, at the noise of all images and the contrast of the first.

    Raises
    ------
    AbbeError
        Where the microscope is not understood, or the pixel size is unknown.
    """
    assert learning.psf is not None
    microscope, first = parse_point_spread(learning.psf), images[0][0]
    pixel_size = microscope.pixels(first.pixel_size.get("x"))
    recipe = deblurring_recipe(microscope, pixel_size, learning.minutes, exposures_of(look, images[0]))
    recipe.train.seed = learning.seed
    warning = microscope.warning(pixel_size)
    seen = f"{look}; " if look is not None else ""
    notes = [f"{seen}learning to undo the blur of {learning.psf} at {pixel_size:g} µm per pixel from simulated scenes"]
    return recipe, notes + ([f"warning: {warning}"] if warning else [])


def exposures_of(look: NoiseLook | None, series: Series) -> list[tuple[Noise, Statistics]]:
    """Give the noise of every channel that has some, and its contrast as it is when the image is restored."""
    normalization, found = Normalization(**load_recipe("deblur").data.normalization), []
    for number, noise in enumerate(look.noises if look is not None else ()):
        if noise.verdict != "none":
            channel = Series(series.image.select(channel=number), series.axes, series.dimensions)
            around = channel.around(len(channel) // 2)
            found.append((noise, normalization.statistics(around.box, around.extents)))
    return found


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
