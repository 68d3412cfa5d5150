"""Train and apply Noise2Void inside the interpreter of one library, one command per line on standard input.

    PYTHON benchmarks/restoration_worker.py abbe|careamics THREADS CLOCK FOLDER

CLOCK is ``wall``, or ``processor`` for the seconds that all threads of this process compute, which other programs
on the machine disturb less; processes that prepare samples are not in it. FOLDER has ``train.npy`` and
``test.npy``, images (N, Y, X), and gets what the trained networks make of the latter. A command is one line of
JSON, ``{"do": NAME, ...}``, NAME one of the functions of :class:`Abbe` and :class:`CAREamics`, which have the same;
the answer is one line of JSON too. ``denoise_against_peers.py`` is the caller.

Equal on both sides: the U-Net (two levels, 32 channels, batch normalisation, no residual), patches, batch, steps, Adam
and its rate, flips and turns. The rest is each library's own: which pixels are hidden and by what, normalisation,
averaging of weights, arithmetic, the way of predicting.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

LEARNING_RATE = 1e-3
"""Of Adam, which is CAREamics' default."""
VALIDATION = 8
"""Patches to validate on, which is CAREamics' default."""
NETWORK = "noise2void_small"
"""Of Abbe: the size of CAREamics' default network."""


class Abbe:
    """Noise2Void as Abbe has it."""

    def __init__(self, folder: Path, clock: Callable[[], float]):
        self.folder, self.clock = folder, clock
        self.model: Any = None

    def train(
        self, seed: int, epochs: int, steps: int, batch: int, patch: int, options: dict[str, Any] | None = None
    ) -> float:
        """Train on the images in ``train.npy`` for so many epochs of so many steps; give the seconds."""
        from abbe.train.checkpoint import load_into, load_weights
        from abbe.train.fit import fit
        from abbe.train.recipe import TrainConfig

        begin = self.clock()
        method = self._method(seed, options or {})
        config = TrainConfig(
            seed=seed,
            epochs=epochs,
            steps_per_epoch=steps,
            batch_size=batch,
            crop=patch,
            optimizer="adam",
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            validate_every=max(epochs // 10, 1),
            workers=1,
        )
        samples = self._samples(np.load(self.folder / "train.npy"))
        sets = [self._patches(method, samples, patch, n, s) for n, s in ((steps * batch, seed), (VALIDATION, seed + 1))]
        result = fit(method, *sets, config, self.folder / f"abbe-{seed}", progress=False)
        load_into(method, load_weights(result.last_path))  # the loss at noisy pixels tells no better one
        self._adopt(method)
        return self.clock() - begin

    def draw(self, seed: int) -> None:
        """Take random weights instead of a training."""
        self._adopt(self._method(seed, {}).eval())

    def parameters(self) -> int:
        """Count the weights."""
        return sum(parameter.numel() for parameter in self.model.method.parameters())

    def predict(self, precision: str, to: str = "") -> float:
        """Restore all of ``test.npy``, and write that to a file of the folder; give the seconds without the writing."""
        import abbe

        images = np.load(self.folder / "test.npy")
        begin = self.clock()
        found = [abbe.restore(image, self.model, dtype="float32", precision=precision) for image in images]
        return self._done(begin, found, to)

    def stack(self, path: str, precision: str, tile: int | None = None) -> float:
        """Restore all planes of a file; give the seconds, reading included."""
        import abbe

        begin = self.clock()
        found = abbe.restore(path, self.model, precision=precision, tile=tile)
        assert found.dtype == np.uint16
        return self.clock() - begin

    def _method(self, seed: int, options: dict[str, Any]) -> Any:
        from abbe.methods.restoration.noise2void import VARIANTS, Noise2Void, Noise2VoidOptions, build

        torch.manual_seed(seed)
        return Noise2Void(build(VARIANTS[NETWORK]), Noise2VoidOptions(**options))

    def _samples(self, images: np.ndarray) -> list[Any]:
        from abbe.data.normalize import Normalization
        from abbe.data.sample import Sample

        return [Sample(Normalization("zscore").normalize(image[None]), name=str(i)) for i, image in enumerate(images)]

    def _patches(self, method: Any, samples: Sequence[Any], patch: int, number: int, seed: int) -> Any:
        """Give crops, mirrored and turned by right angles and not changed otherwise."""
        from abbe.data.augment import AugmentConfig
        from abbe.data.datasets import TrainingDataset

        plain = AugmentConfig()
        off = {name: 0.0 for name in asdict(plain) if name.endswith("_probability")}
        return TrainingDataset(samples, method.prepare, replace(plain, **off), (patch, patch), number, seed)

    def _adopt(self, method: Any) -> None:
        from abbe.methods.restoration.noise2void import VARIANTS
        from abbe.model import Model
        from abbe.weights.file import Description

        about = Description(NETWORK, NETWORK, asdict(VARIANTS[NETWORK]), "noise2void", asdict(method.options))
        about.normalization = {"kind": "zscore"}
        self.model = Model(method, about)

    def _done(self, begin: float, found: Sequence[np.ndarray], to: str) -> float:
        seconds = self.clock() - begin
        if to:
            np.save(self.folder / to, np.stack([image.reshape(image.shape[-2:]) for image in found]))
        return seconds


class CAREamics:
    """Noise2Void as CAREamics has it."""

    def __init__(self, folder: Path, clock: Callable[[], float]):
        self.folder, self.clock = folder, clock
        self.careamist: Any = None

    def train(
        self, seed: int, epochs: int, steps: int, batch: int, patch: int, options: dict[str, Any] | None = None
    ) -> float:
        """Train on the images in ``train.npy`` for so many epochs of so many steps; give the seconds."""
        begin = self.clock()
        self._configure(seed, epochs, steps, batch, patch, **(options or {}))
        self.careamist.train(train_data=list(np.load(self.folder / "train.npy")))
        trained = self.careamist.trainer.global_step
        assert trained == epochs * steps, f"CAREamics made {trained} steps of {epochs * steps}"
        return self.clock() - begin

    def draw(self, seed: int) -> None:
        """Take random weights instead of a training."""
        statistics = {"input_means": [0.0], "input_stds": [1.0]}
        self._configure(seed, 1, 1, 1, 64, normalization_params=statistics)

    def parameters(self) -> int:
        """Count the weights."""
        return sum(parameter.numel() for parameter in self.careamist.model.model.parameters())

    def predict(self, precision: str, to: str = "") -> float:
        """Restore all of ``test.npy``, each image whole, and write that to a file; give the seconds without that."""
        images = list(np.load(self.folder / "test.npy"))
        begin = self.clock()
        found, _ = self.careamist.predict(images, batch_size=1)
        seconds = self.clock() - begin
        if to:
            np.save(self.folder / to, np.stack([image.reshape(image.shape[-2:]) for image in found]))
        return seconds

    def stack(self, path: str, precision: str, tile: int | None = None) -> float:
        """Restore all planes of a file; give the seconds, reading included."""
        shape = None if tile is None else (tile, tile)
        begin = self.clock()
        # Tiles from a process of their own, its default, keep file descriptors to the end, and 50 planes of 2048² need
        # more than 20,000 of them; it is faster without one, too.
        self.careamist.predict(Path(path), data_type="tiff", axes="SYX", tile_size=shape, batch_size=1, num_workers=0)
        return self.clock() - begin

    def _configure(self, seed: int, epochs: int, steps: int, batch: int, patch: int, **others: Any) -> None:
        from careamics.careamist import CAREamist
        from careamics.config.factories.n2v_factory import create_advanced_n2v_config

        config = create_advanced_n2v_config(
            experiment_name="noise2void",
            data_type="array",
            axes="YX",
            patch_size=[patch, patch],
            batch_size=batch,
            num_epochs=epochs,
            num_steps=steps,
            n_val_patches=VALIDATION,
            optimizer_params={"lr": LEARNING_RATE},
            trainer_params={"accelerator": "cpu"},
            seed=seed + 1,  # it takes no zero
            **others,
        )
        self.careamist = CAREamist(config, work_dir=self.folder / f"careamics-{seed}", enable_progress_bar=False)


LIBRARIES = {"abbe": Abbe, "careamics": CAREamics}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def main() -> None:
    library, threads, clock, folder = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not mix with the answers
    bench = LIBRARIES[library](Path(folder), CLOCKS[clock])
    print(json.dumps(f"{library} {importlib.import_module(library).__version__}"), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(bench, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
