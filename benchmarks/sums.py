"""The transformer of 2017 learns to add: exact match on sums it never saw, by the length of their chains of carries.

    python benchmarks/sums.py --out runs/sums
    python benchmarks/sums.py --out runs/sums-plain --smoothing 0        # without label smoothing
    python benchmarks/sums.py --out runs/sums-flat --schedule constant   # without the paper's schedule

``--resume`` goes on with a run that was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abbe.data.sample import TokenPair
from abbe.data.sequences import VOCABULARY, GeneratedSequences, SumsConfig, draw_sum, held_out_sums
from abbe.methods.attention.transformer import VARIANTS, build, learning_rate
from abbe.methods.attention.translation import Translation, TranslationOptions
from abbe.train.fit import fit
from abbe.train.recipe import TrainConfig


def main() -> None:
    """Train, and print what is right."""
    a = arguments()
    torch.manual_seed(a.seed)
    sums = SumsConfig(a.digits, least_first=a.least_first)
    sizes = {"vocabulary": VOCABULARY, "width": a.width, "depth": a.depth, "heads": a.width // 32, "mlp": 4 * a.width}
    network = build(replace(VARIANTS["transformer_base"], **sizes, dropout=a.dropout))
    options = TranslationOptions(a.smoothing, longest=2 * a.digits + 2, beams=1)
    method = Translation(network, options)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters:,} parameters, sums of up to {a.digits} digits", flush=True)
    draw = partial(draw_sum, sums, held_out=False)
    data = GeneratedSequences(draw, method.prepare, a.batch * a.steps_per_epoch, a.seed)
    tested = held_out_sums(sums, a.tested)
    score = partial(measure, tested=tested[: min(500, a.tested)])
    result = fit(method, data, None, settings(a), a.out, validate=score, resume=a.resume)
    print(f"best exact match in training: {result.best_score}")
    for beams in (1, 4):
        method.options = replace(options, beams=beams)
        found = measure(method, tested)
        print(f"beams {beams}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))


def measure(method: Any, tested: Sequence[TokenPair]) -> dict[str, float]:
    """Search the sums of all tests, and compare."""
    generator, decoded = np.random.default_rng(0), []
    device = next(method.parameters()).device
    for first in range(0, len(tested), 250):
        batch = [method.prepare(pair, generator)["source"] for pair in tested[first : first + 250]]
        found = method.predict(torch.stack(batch).to(device))
        decoded += [method.decode({"tokens": row}) for row in found["tokens"].cpu().numpy()]
    truth = [{"tokens": pair.target, "difficulty": np.array(pair.difficulty)} for pair in tested]
    return method.score(decoded, truth)


def settings(a: argparse.Namespace) -> TrainConfig:
    """Give the trainer the paper's optimizer, and its schedule unless another is chosen."""
    return TrainConfig(
        seed=a.seed,
        epochs=-(-a.steps // a.steps_per_epoch),
        batch_size=a.batch,
        optimizer="adam",
        weight_decay=0.0,
        learning_rate=learning_rate(a.warmup, a.width, a.warmup),
        warmup_steps=a.warmup,
        schedule=a.schedule,
        gradient_clip=0.0,
        precision="float32",
        ema_decay=0.99,
        validate_every=4,
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--digits", type=int, default=3)
    parser.add_argument("--least-first", action="store_true")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--steps-per-epoch", type=int, default=250)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--schedule", choices=["inverse_root", "constant", "cosine"], default="inverse_root")
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--tested", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
