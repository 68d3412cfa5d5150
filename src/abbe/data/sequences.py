"""Sequences to learn from that are made, not collected: sums of whole numbers, written in digits.

::

    source  4 8 9 7 + 1 3        target  4 9 1 0

A digit of the sum depends on all columns to its right, through the carries: 4999 + 1 has a chain of three. Numbers of
random digits hardly have long chains, so half of the sums begin with a carry in the last column, and most of their
other columns add up to nine, which hand it on. How long a sum's longest chain is, is its difficulty. Of all sums a
tenth, chosen by a hash of the text, is never trained on: half of it is there to validate with, half to test with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from abbe.data.sample import TokenPair
from abbe.errors import AbbeError

FIRST = 3
"""Tokens before it stand for padding, begin and end."""
CHARACTERS = "0123456789+"
VOCABULARY = FIRST + len(CHARACTERS)
"""Tokens of a network that reads and writes sums."""
Part = Literal["train", "validation", "test"]
"""What a sum is for."""
HELD_OUT = 0.05
"""Share of all sums that is kept for validation, and as many for testing."""
NINES = 0.8
"""Chance of a column to add up to nine in a sum that is to have long chains."""


@dataclass(frozen=True)
class SumsConfig:
    """Which sums."""

    digits: int = 6
    """Most digits of a summand; the number of digits is drawn evenly, then the digits."""
    least_first: bool = False
    """Write the sum from its last digit on, which needs no look ahead and is much easier to learn."""
    validated: int = 500
    """How many different sums to validate with."""
    tested: int = 2000
    """How many different sums to test with."""

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 18:
            raise AbbeError(f"digits: expected 1 to 18, found {self.digits}")
        if min(self.validated, self.tested) < 1:
            raise AbbeError(f"validated and tested: expected 1 at least, found {self.validated} and {self.tested}")


def to_tokens(text: str, characters: str = CHARACTERS) -> np.ndarray:
    """Turn text into tokens, int64; one that is not among the characters raises AbbeError."""
    strange = sorted(set(text) - set(characters))
    if strange:
        raise AbbeError(f"{text!r}: no tokens for {' '.join(strange)}; there are some for {characters}")
    return np.array([FIRST + characters.index(character) for character in text], dtype=np.int64)


def to_text(tokens: np.ndarray, characters: str = CHARACTERS) -> str:
    """Turn tokens into text; those that are no characters become ``?``."""
    known = range(FIRST, FIRST + len(characters))
    return "".join(characters[token - FIRST] if token in known else "?" for token in tokens.tolist())


def draw_sum(config: SumsConfig, generator: np.random.Generator, part: Part = "train") -> TokenPair:
    """Draw a sum out of those of a part."""
    while True:
        first, second = _summands(config.digits, generator)
        if part_of(first, second) == part:
            return make_sum(first, second, config.least_first)


def make_sum(first: int, second: int, least_first: bool = False) -> TokenPair:
    """Write a sum as tokens; its difficulty is its longest chain of carries."""
    text, total = f"{first}+{second}", str(first + second)
    target = total[::-1] if least_first else total
    return TokenPair(to_tokens(text), to_tokens(target), text, longest_chain(first, second))


def longest_chain(first: int, second: int) -> int:
    """Count the neighbouring columns through which one carry goes, at most."""
    longest = chain = carry = 0
    while first or second or carry:
        column = first % 10 + second % 10 + carry
        chain = chain + 1 if column > 9 and carry else int(column > 9)
        carry, first, second = int(column > 9), first // 10, second // 10
        longest = max(longest, chain)
    return longest


def part_of(first: int, second: int) -> Part:
    """Tell what a sum is for; the order of the summands does not matter."""
    low, high = sorted((first, second))
    share = int.from_bytes(hashlib.sha256(f"{low}+{high}".encode()).digest()[:6]) / 2**48
    if share < 2 * HELD_OUT:
        return "validation" if share < HELD_OUT else "test"
    return "train"


def held_out_sums(config: SumsConfig, part: Part) -> list[TokenPair]:
    """Draw the different sums to validate or to test with, always the same.

    Raises
    ------
    AbbeError
        Where there are not so many.
    """
    number = config.validated if part == "validation" else config.tested
    generator = np.random.default_rng([0, 1])
    found: dict[str, TokenPair] = {}
    for _ in range(20 * number):
        if len(found) == number:
            break
        pair = draw_sum(config, generator, part)
        found[pair.name] = pair
    if len(found) < number:
        raise AbbeError(f"there are not {number} different sums of up to {config.digits} digits for {part}")
    return list(found.values())


def _summands(digits: int, generator: np.random.Generator) -> tuple[int, int]:
    lengths = generator.integers(1, digits + 1, 2)
    columns = generator.integers(0, 10, (2, digits))  # the last digits first
    if generator.random() < 0.5:
        lengths[1] = lengths[0]
        nine = generator.random(digits) < NINES
        columns[1, nine] = 9 - columns[0, nine]
        columns[0, 0] = generator.integers(1, 10)
        columns[1, 0] = generator.integers(10 - columns[0, 0], 10)
    columns[np.arange(digits) >= lengths[:, None]] = 0
    first, second = (columns * 10 ** np.arange(digits)).sum(axis=1)
    return int(first), int(second)


class GeneratedSequences(Dataset[dict[str, torch.Tensor]]):
    """Sequences that are drawn when they are asked for, random by (seed, epoch, index) alone.

    Parameters
    ----------
    draw
        Makes a sample with a generator of random numbers.
    prepare
        A method's: a sample to tensors.
    epoch_length
        Samples per epoch.
    seed
        Of everything random.
    """

    def __init__(
        self,
        draw: Callable[[np.random.Generator], TokenPair],
        prepare: Callable[[TokenPair, np.random.Generator], dict[str, torch.Tensor]],
        epoch_length: int,
        seed: int,
    ) -> None:
        self.draw, self.prepare, self.epoch_length, self.seed = draw, prepare, epoch_length, seed
        # Shared memory, so that loader workers that live on see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next items belong to; call it before the loader starts the epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.epoch_length:
            raise IndexError(index)
        generator = np.random.default_rng([self.seed, int(self._epoch), index])
        return self.prepare(self.draw(generator), generator)
