"""What a recipe and its data come to, and the training that makes a model of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abbe.train.batches import TrainingSet
from abbe.train.fit import FitResult, fit
from abbe.train.recipe import Recipe, dump_recipe
from abbe.weights.file import Description, save_model


@dataclass(frozen=True)
class Lesson:
    """What is trained, on what, and how it is judged."""

    method: Any
    description: Description
    training_set: TrainingSet
    plan: str
    """A line that says how much there is to train and to validate on."""
    validate: Callable[[Any], dict[str, float]] | None
    """Scores the method as it stands; None where there is nothing to validate on."""
    measure: Callable[[], dict[str, float]] | None
    """Scores the finished method, for its description."""
    verb: str
    """What the model will be for."""
    validation_set: TrainingSet | None = None
    """Samples whose losses are validated, in place of scores."""


@dataclass(frozen=True)
class Trained:
    """What a training gives."""

    model: Path
    """The model file, which the leading process has written."""
    run: Path
    """The run folder: curves, log, checkpoints, resolved recipe."""
    fit: FitResult
    """History and best score."""
    verb: str = "segment"
    """What the model is for."""

    @property
    def usage(self) -> str:
        """Say how to use the model."""
        if self.verb == "translate":
            return f'in Python: abbe.api.translate(texts, "{self.run}")'
        return f"abbe {self.verb} IMAGES --model {self.run}"


def teach(
    lesson: Lesson, recipe: Recipe, run: Path, *, resume: bool = False, progress: bool = True, going_on: str = ""
) -> Trained:
    """Train, and write the model into the folder of the run; ``going_on`` is that of :func:`~abbe.train.fit.fit`."""
    result = fit(
        lesson.method,
        lesson.training_set,
        lesson.validation_set,
        recipe.train,
        run,
        recipe_text=dump_recipe(recipe),
        validate=lesson.validate,
        resume=resume,
        progress=progress,
        going_on=going_on,
    )
    path = run / "model.safetensors"
    if result.leads:
        if lesson.measure:
            lesson.description.metrics = {"validation": {key: round(v, 4) for key, v in lesson.measure().items()}}
        save_model(path, lesson.method.state_dict(), lesson.description)
    return Trained(path, run, result, lesson.verb)
