"""What the paper of RoFormer says of rotary positions (Su et al. 2021, arXiv:2104.09864), tried small.

Section 3.2.2, Eq. 16: a score of query and key depends on how far their words are apart, and not on where they are.
Section 3.4.3: the bound of a score falls with the distance (Fig. 2). Section 4.2: masked tokens are learnt faster than
with the sinusoids of 2017 that are added to the words (Fig. 3). The words here are characters, of the documentation
that comes with Python or of a text that is given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from abbe.data.sample import TokenPair
from abbe.data.sequences import GeneratedSequences
from abbe.errors import AbbeError
from abbe.methods.attention.masked_tokens import MaskedTokens
from abbe.methods.attention.roformer import RoFormer, RoFormerConfig
from abbe.methods.attention.transformer import sinusoids
from abbe.nn.rope import angles, rotate
from abbe.reproduce.claims import ClaimSettings, Found
from abbe.train.fit import fit
from abbe.train.recipe import TrainConfig

KINDS = ("rotary", "sinusoidal")
COLOURS = {"rotary": "tab:blue", "sinusoidal": "tab:orange"}
CHANNELS = 64
"""Of the random queries and keys."""
FARTHEST = 512
"""Places of the random queries and keys, and by how far they are moved together."""
ENOUGH = 1e-4
"""A score that changes by less, as a part of |q| |k|, does not depend on the place; float32 knows angles no better."""
DISTANCES = ((1, 16), (16, 64), (64, 257))
"""Ranges of distances whose bounds are compared."""
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
FIRST = 2
"""Token of the first character; before it are padding and the mask."""
TOKENS = {character: FIRST + place for place, character in enumerate(CHARACTERS)}
SHORTEST = 20_000
"""Characters of a text of which a tenth is held out."""


@dataclass(frozen=True)
class Budget:
    """How much is tried."""

    pairs: int = 2000
    """Random queries and keys."""
    seeds: int = 3
    """Trainings of each kind."""
    steps: int = 600
    every: int = 30
    """Steps between two looks at the text that is held out."""
    batch: int = 16
    length: int = 64
    """Characters of a window."""
    tested: int = 128
    """Windows of the text that is held out."""
    width: int = 64
    depth: int = 3


BUDGET = Budget()


def run(settings: ClaimSettings, tell: Callable[[str], None]) -> Found:
    """Try the three statements."""
    moved = {kind: largest_change(kind, settings.seed) for kind in KINDS}
    tell(f"a score changes by {moved['rotary']:.1e} |q||k| at most where both words move by the same")
    distances = torch.arange(257)
    limits = bound(distances)
    curves = learn(prose(settings.data), settings.seed, tell)
    means = curves.groupby(["positions", "step"])["loss"].mean().unstack(0)
    shifts = moved["rotary"] < ENOUGH
    falls = bool(np.all(np.diff([limits[first:last].mean() for first, last in DISTANCES]) < 0))
    each = curves.groupby(["seed", "positions"])["loss"].mean().unstack()
    faster = bool((each["rotary"] < each["sinusoidal"]).all())
    near, far = (float(limits[first:last].mean()) for first, last in (DISTANCES[0], DISTANCES[-1]))
    sentence = (
        f"where query and key move by the same, the score changes by {moved['rotary']:.1e} of |q||k| at most, that of "
        f"sinusoids by {moved['sinusoidal']:.2f}; its bound is {near:.1f} on average at distances below 16 and "
        f"{far:.1f} from 64 to 256; {_earlier(means)}; on average over the run the loss on held-out text was lower in "
        f"{int((each['rotary'] < each['sinusoidal']).sum())} of {len(each)} seeds."
    )
    table = pd.concat(
        [
            curves.assign(what="held-out loss").rename(columns={"step": "x", "loss": "value"}),
            pd.DataFrame({"what": "bound", "positions": "rotary", "x": distances, "value": limits}),
            pd.DataFrame({"what": "largest change", "positions": KINDS, "value": [moved[kind] for kind in KINDS]}),
        ],
        ignore_index=True,
    )[["what", "positions", "seed", "x", "value"]]
    return Found(shifts and falls and faster, sentence, table, draw(limits, curves, settings.seed))


def _earlier(means: pd.DataFrame) -> str:
    """Say when the mean rotary curve is where the sinusoidal one ends."""
    last, goal = int(means.index[-1]), float(means["sinusoidal"].iloc[-1])
    there = means.index[means["rotary"] <= goal]
    if not len(there):
        return f"in {last} steps rotary positions do not come to the loss of sinusoids, {goal:.2f}"
    return f"rotary positions come in {int(there[0])} steps to the loss that sinusoids have after {last}, {goal:.2f}"


# ------------------------------------------------------------------------------------------------- the formula


def scores(kind: str, q: torch.Tensor, k: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Compute the scores (N) of queries and keys (N, d) at places m and n (N), as parts of |q| |k|."""
    size = q.norm(dim=-1) * k.norm(dim=-1)
    d = q.shape[-1]
    if kind == "rotary":
        return (rotate(q, angles(m, d)) * rotate(k, angles(n, d))).sum(-1) / size
    places = sinusoids(int(max(m.max(), n.max())) + 1, d)
    return ((q + places[m]) * (k + places[n])).sum(-1) / size


def largest_change(kind: str, seed: int) -> float:
    """Move random queries and keys by the same number of places, and find the largest change of a score."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(BUDGET.pairs, CHANNELS, generator=generator) for _ in range(2))
    m, n, shift = (torch.randint(FARTHEST, (BUDGET.pairs,), generator=generator) for _ in range(3))
    return float((scores(kind, q, k, m, n) - scores(kind, q, k, m + shift, n + shift)).abs().max())


def bound(distances: torch.Tensor, channels: int = 128) -> np.ndarray:
    """Compute the bound of Eq. 37, 2/d Σ_i |S_i| with S_i = Σ_(j<i) exp(i (m − n) θ_j), at each distance m − n."""
    turned = torch.exp(1j * angles(distances, channels))  # (N, d / 2)
    return turned.cumsum(dim=1).abs().mean(dim=1).numpy()


# ------------------------------------------------------------------------------------------------ the learning


def learn(text: np.ndarray, seed: int, tell: Callable[[str], None]) -> pd.DataFrame:
    """Train both kinds from several seeds: ``positions``, ``seed``, ``step`` and held-out ``loss``."""
    held_out = len(text) // 10
    rows = []
    for number in range(seed, seed + BUDGET.seeds):
        for kind in KINDS:
            curve = learning_curve(kind, number, text[:-held_out], text[-held_out:])
            rows.append(curve.assign(positions=kind, seed=number))
            tell(f"seed {number}, {kind} positions: loss on held-out text {curve['loss'].iloc[-1]:.3f}")
    return pd.concat(rows, ignore_index=True)


def prose(file: Path | None = None) -> np.ndarray:
    """Read a text file, or else the documentation that comes with Python, as tokens, one per character.

    Raises
    ------
    AbbeError
        Where the file is no text or too short, or this Python has been installed without its documentation.
    """
    text = documentation() if file is None else _read(file)
    tokens = np.array([TOKENS[one] for one in text if one in TOKENS], np.int64)
    if len(tokens) < SHORTEST:
        raise AbbeError(
            f"--data {file}: {len(tokens):,} characters of English; expected a text of {SHORTEST:,} at least"
        )
    return tokens


def documentation() -> str:
    """Take the topics of Python's own help, some hundred thousand characters."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise AbbeError(
            "this Python came without its documentation (pydoc_data), which is what is learnt; give a text with --data"
        ) from None
    return "\n".join(topics[name] for name in sorted(topics))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AbbeError(f"--data {file}: cannot be read as text ({error}); expected a text file in UTF-8") from error


def learning_curve(kind: str, seed: int, text: np.ndarray, held_out: np.ndarray) -> pd.DataFrame:
    """Train with one kind of positions; the windows and gaps of a seed are the same for each kind."""
    torch.manual_seed(seed)
    b = BUDGET
    config = RoFormerConfig(
        vocabulary=FIRST + len(CHARACTERS),
        segments=1,
        width=b.width,
        depth=b.depth,
        heads=max(1, b.width // 32),
        mlp=4 * b.width,
        positions="rotary" if kind == "rotary" else "sinusoidal",
        dropout=0.0,
    )
    method = MaskedTokens(RoFormer(config))
    train = TrainConfig(
        seed=seed,
        steps=b.steps,
        steps_per_epoch=b.every,
        batch_size=b.batch,
        learning_rate=1e-3,
        warmup_steps=b.steps // 10,
        schedule="constant",
        weight_decay=0.01,
        ema_decay=0.0,
        precision="float32",
        accelerator="cpu",
    )
    windows = GeneratedSequences(_window(text, b.length), method.prepare, b.batch * b.every, seed)
    tested = GeneratedSequences(_window(held_out, b.length), method.prepare, b.tested, 1000 + seed)
    with tempfile.TemporaryDirectory() as folder:
        history = fit(method, windows, tested, train, Path(folder) / "run", progress=False).history
    return pd.DataFrame({"step": history["step"], "loss": history["validation_loss"]})


def _window(text: np.ndarray, length: int) -> Callable[[np.random.Generator], TokenPair]:
    def cut(generator: np.random.Generator) -> TokenPair:
        start = int(generator.integers(len(text) - length))
        return TokenPair(text[start : start + length], text[:0])

    return cut


# ------------------------------------------------------------------------------------------------- the figure


def draw(limits: np.ndarray, curves: pd.DataFrame, seed: int) -> Figure:
    """Draw scores of words that move together, the bound, and the losses."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_moved(left, seed)
    middle.plot(limits, color=COLOURS["rotary"])
    middle.set(title="bound of the score (d = 128)", xlabel="distance in words", ylim=(0, None))
    for kind, of_kind in curves.groupby("positions"):
        by_step = of_kind.groupby("step")["loss"]
        mean, low, high = by_step.mean(), by_step.min(), by_step.max()
        right.plot(mean.index, mean, color=COLOURS[str(kind)], label=f"{kind} positions")
        right.fill_between(mean.index, low, high, color=COLOURS[str(kind)], alpha=0.25, linewidth=0)
    seeds = curves["seed"].nunique()
    right.set(title=f"masked characters, held out, {seeds} seed{'s' * (seeds > 1)}", xlabel="step", ylabel="loss")
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_moved(axes: Axes, seed: int) -> None:
    """Draw the score of one query and one key, seven words apart, as both move along."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, CHANNELS, generator=generator).expand(FARTHEST, -1) for _ in range(2))
    places = torch.arange(FARTHEST)
    for kind in KINDS:
        axes.plot(scores(kind, q, k, places + 7, places), color=COLOURS[kind], label=f"{kind} positions")
    axes.set(title="score of two words, 7 apart", xlabel="place of the second", ylabel="part of |q| |k|")
    axes.margins(y=0.35)  # room for the legend
    axes.legend(frameon=False)
