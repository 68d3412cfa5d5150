"""What can be tried small of the transformer (Vaswani et al. 2017, arXiv:1706.03762).

Decoding word by word from stored keys and values gives what the whole forward pass gives, in a fraction of the time.
Section 5.3: the learning rate rises and then falls with 1/√step. Section 5.4: with label smoothing the model is less
sure, which costs perplexity, and is right more often. The last two are tried on sums, by the recipe ``sequences``: with
two constant rates in place of the schedule, its highest one and its mean, and without smoothing.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn import functional as F

from abbe.data.sample import TokenPair
from abbe.data.sequences import held_out_sums
from abbe.learn import train_recipe
from abbe.learn_sequences import SequenceValidation, sums_of
from abbe.methods.attention.transformer import Transformer, TransformerConfig
from abbe.methods.attention.translation import Translation
from abbe.model import load_model
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.train.recipe import load_recipe

ENOUGH = 1e-4
"""Outputs that differ by less, as a part of the largest, are the same in float32."""
PAPER, PEAK, MEAN, PLAIN = "as in the paper", "constant, highest rate", "constant, mean rate", "no label smoothing"
COLOURS = {PAPER: "tab:blue", PEAK: "tab:red", MEAN: "tab:orange", PLAIN: "tab:green"}


@dataclass(frozen=True)
class Budget:
    """How much is tried."""

    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Words that are written with the cache and without."""
    width: int = 128
    """Of the network that writes them; it has three layers."""
    seeds: int = 1
    """Trainings of each kind."""
    overrides: dict[str, Any] = field(default_factory=lambda: {"train.epochs": 6})
    """Settings of the recipe that are changed in all of them."""


BUDGET = Budget()


def run(settings: ClaimSettings, tell: Callable[[str], None]) -> Found:
    """Hold the cache against the whole pass, then train with and without schedule and smoothing."""
    cache = measure_cache(settings.seed)
    longest = cache.iloc[-1]
    times = longest["seconds_whole"] / longest["seconds_cached"]
    tell(f"{longest['length']:.0f} words with the cache: {times:.1f} times as fast")
    trained, curves = ablate(settings.seed, tell)
    mean = trained.groupby("kind")[["exact_match", "perplexity"]].mean()
    exact, perplexity = mean["exact_match"], mean["perplexity"]
    same = bool(cache["difference"].max() < ENOUGH and times > 1)
    schedule = bool(exact[PAPER] > max(exact[PEAK], exact[MEAN]))
    smoothing = bool(perplexity[PAPER] > perplexity[PLAIN] and exact[PAPER] > exact[PLAIN])
    right = {kind: f"{100 * share:.1f} %" for kind, share in exact.items()}
    sentence = (
        f"the cache's outputs differ by {cache['difference'].max():.0e} of the largest, and it writes "
        f"{longest['length']:.0f} words {times:.1f} times as fast; of sums never seen {right[PAPER]} are right with "
        f"the paper's schedule, {right[PEAK]} with its highest rate and {right[MEAN]} with its mean rate, constant; "
        f"without label smoothing {right[PLAIN]} are right, and the perplexity is {perplexity[PLAIN]:.3f} in place of "
        f"{perplexity[PAPER]:.3f} ({BUDGET.seeds} seed{'s' * (BUDGET.seeds > 1)})."
    )
    parts = {"cache": cache, "training": trained, "accuracy in training": curves}
    table = pd.concat([part.assign(what=name) for name, part in parts.items()], ignore_index=True)
    return Found(same and schedule and smoothing, sentence, table, draw(cache, trained, curves))


# --------------------------------------------------------------------------------------------------- the cache


@torch.no_grad()
def measure_cache(seed: int) -> pd.DataFrame:
    """Compute the same outputs word by word with the cache and without: ``difference`` and the processor's seconds."""
    generator = torch.Generator().manual_seed(seed)
    width = BUDGET.width
    config = TransformerConfig(vocabulary=1000, width=width, depth=3, heads=max(1, width // 32), mlp=4 * width)
    network = Transformer(config).eval()
    source = torch.randint(3, 1000, (4, 32), generator=generator)
    rows = []
    for length in BUDGET.lengths:
        target = torch.randint(3, 1000, (4, length), generator=generator)
        whole = network(source, target)
        cached, seconds = _timed(lambda: with_cache(network, source, target))  # noqa: B023, called at once
        _, without = _timed(lambda: without_cache(network, source, target))  # noqa: B023
        difference = float((cached - whole).abs().max() / whole.abs().max())
        rows.append({"length": length, "difference": difference, "seconds_cached": seconds, "seconds_whole": without})
    return pd.DataFrame(rows)


def with_cache(network: Transformer, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute logits (B, T, K) one word at a time."""
    state, found = network.start(source), []
    for place in range(target.shape[1]):
        logits, state = network.decode(target[:, place : place + 1], state)
        found.append(logits)
    return torch.cat(found, dim=1)


def without_cache(network: Transformer, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute logits (B, T, K) one word at a time, each from all words before it; the source is read once."""
    state = network.start(source)
    places = range(target.shape[1])
    return torch.stack([network.decode(target[:, : place + 1], state)[0][:, -1] for place in places], dim=1)


def _timed(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    start = time.process_time()
    return compute(), time.process_time() - start


# ------------------------------------------------------------------------------------------------ the training


def ablate(seed: int, tell: Callable[[str], None]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train each kind from several seeds.

    Returns
    -------
    tuple
        A row for each training, ``kind``, ``seed``, ``exact_match`` and ``perplexity`` on sums to test with; and a row
        for each epoch, ``kind``, ``seed``, ``step`` and ``accuracy`` of the next token in training.
    """
    rows, curves = [], []
    for number in range(seed, seed + BUDGET.seeds):
        for kind, changes in kinds().items():
            measured, curve = train(changes | {"train.seed": number})
            rows.append({"kind": kind, "seed": number, **measured})
            curves.append(curve.assign(kind=kind, seed=number))
            tell(f"seed {number}, {kind}: {100 * measured['exact_match']:.1f} % of the sums are right")
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def kinds() -> dict[str, dict[str, Any]]:
    """Name what each kind changes in the recipe."""
    train = load_recipe("sequences", BUDGET.overrides).train
    steps = np.arange(1, (train.steps or train.epochs * train.steps_per_epoch) + 1)
    warm = train.warmup_steps
    scheduled = train.learning_rate * np.minimum(steps / warm, np.sqrt(warm / steps))  # Eq. 3
    constant = {"train.schedule": "constant", "train.warmup_steps": 0}
    return {
        PAPER: {},
        PEAK: constant,
        MEAN: constant | {"train.learning_rate": float(scheduled.mean())},
        PLAIN: {"options.smoothing": 0.0},
    }


def train(changes: dict[str, Any]) -> tuple[dict[str, float], pd.DataFrame]:
    """Train by the recipe with some changes, validating at the end alone; measure on the sums to test with."""
    overrides = {"train.validate_every": 10**6, **BUDGET.overrides, **changes}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        trained = train_recipe("sequences", overrides=overrides, out=run, tell=lambda line: None, progress=False)
        method: Any = load_model(run).method
    pairs = held_out_sums(sums_of(load_recipe("sequences", overrides)), "test")
    exact = SequenceValidation(pairs)(method)["exact_match"]
    return {"exact_match": exact, "perplexity": perplexity(method, pairs)}, trained.fit.history[["step", "accuracy"]]


@torch.no_grad()
def perplexity(method: Translation, pairs: list[TokenPair]) -> float:
    """Compute the exponential of a token's mean negative log-likelihood, each from the right ones before it."""
    generator, padding = np.random.default_rng(0), method.network.config.padding
    total = tokens = 0.0
    for first in range(0, len(pairs), 250):
        made = [method.prepare(pair, generator) for pair in pairs[first : first + 250]]
        source, target = (torch.stack([one[name] for one in made]) for name in ("source", "target"))
        logits = method.network(source, target[:, :-1]).flatten(0, 1)
        wanted = target[:, 1:].flatten()
        total += float(F.cross_entropy(logits, wanted, ignore_index=padding, reduction="sum"))
        tokens += float((wanted != padding).sum())
    return math.exp(total / tokens)


# ------------------------------------------------------------------------------------------------- the figure


def draw(cache: pd.DataFrame, trained: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw the time with and without cache, the learning, and what came of it."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, label in (("seconds_whole", "all anew for each word"), ("seconds_cached", "cache")):
        left.plot(cache["length"], cache[name], marker="o", markersize=3, label=label)
    left.set(title="writing four sentences", xlabel="words", ylabel="processor seconds", xscale="log", yscale="log")
    left.set_xticks(cache["length"], [f"{length}" for length in cache["length"]])
    left.minorticks_off()
    for kind, of_kind in curves.groupby("kind", sort=False):
        accuracy = of_kind.groupby("step")["accuracy"].mean()
        middle.plot(accuracy.index, accuracy, color=COLOURS[str(kind)], label=kind)
    middle.set(title="next digit right, in training", xlabel="step", ylabel="share")
    _draw_outcome(right, trained)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (left, middle):
        axes.legend(frameon=False, fontsize="small")
    return figure


def _draw_outcome(axes: Axes, trained: pd.DataFrame) -> None:
    for kind, of_kind in trained.groupby("kind", sort=False):
        axes.plot(of_kind["perplexity"], of_kind["exact_match"], "o", color=COLOURS[str(kind)], label=kind)
    axes.set(title="sums never seen", xlabel="perplexity of a digit", ylabel="exact match")
