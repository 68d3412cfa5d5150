"""What training on sequences needs beside a recipe: sums that are made, and others that judge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from abbe.data.sample import TokenPair
from abbe.data.sequences import CHARACTERS, VOCABULARY, GeneratedSequences, SumsConfig, draw_sum, held_out_sums
from abbe.errors import AbbeError
from abbe.methods.attention.translation import Translation
from abbe.train.recipe import Recipe
from abbe.train.settings import build_config
from abbe.translation import translated, truth_of

STEPS = 250
"""Steps of an epoch of a recipe that does not say; data without an end have none of their own."""


def sums_of(recipe: Recipe) -> SumsConfig:
    """Read which sums a recipe is about.

    Raises
    ------
    AbbeError
        When the recipe names folders: nothing is read from files.
    """
    if recipe.data.paths:
        raise AbbeError(f"recipe {recipe.name}: makes its sums itself and reads no files; leave out --data")
    return build_config(SumsConfig, recipe.data.sums, f"{recipe.name}: data.sums")


def settle_sequences(recipe: Recipe, sums: SumsConfig) -> None:
    """Write into the recipe what the sums decide: the tokens, and how long a sequence may be."""
    recipe.network["vocabulary"] = VOCABULARY
    recipe.options["alphabet"] = CHARACTERS
    recipe.options.setdefault("longest", 2 * sums.digits + 2)


def sequence_training_data(recipe: Recipe, method: Translation, sums: SumsConfig) -> GeneratedSequences:
    """Give sums without an end, none of them among those that are held out."""
    steps = recipe.train.steps_per_epoch or STEPS
    draw = partial(draw_sum, sums)
    return GeneratedSequences(draw, method.prepare, steps * recipe.train.batch_size, recipe.train.seed)


@dataclass(frozen=True)
class SequenceValidation:
    """Scores of a method on sequences that it does not train on, found by its own search."""

    pairs: list[TokenPair]

    def __call__(self, method: Translation) -> dict[str, float]:
        """Measure exact match, also by difficulty, and the share of right tokens."""
        found = [{"tokens": tokens} for tokens in translated(method, self.pairs)]
        return method.score(found, truth_of(self.pairs))


def sequence_validation(sums: SumsConfig) -> SequenceValidation:
    """Take the sums that are kept for validation."""
    return SequenceValidation(held_out_sums(sums, "validation"))
