"""StarDist trained on our split of the fluorescence images, scored with our metrics: the honest anchor of quality.

    PEERS/bin/python benchmarks/stardist_baseline.py train --data dsb2018/fluorescence --out stardist-run --minutes 240
    python           benchmarks/stardist_baseline.py score --data dsb2018/fluorescence --out stardist-run

The first command runs where `stardist` is installed, the second where Abbe is. Architecture of `2D_versatile_fluo`;
optimiser, patch and batch are StarDist's defaults, its augmentation that of its example notebook: flips, quarter turns,
a random gain and offset, noise. It trains on ``train``, halves its rate and sets its two thresholds on ``val``, and
stops when the minutes are over: 40,000 steps, its default, are half a day on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

STEPS_PER_EPOCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["train", "score"])
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val, test")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=240, help="of training at most")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--steps", type=int, default=STEPS_PER_EPOCH, help="in an epoch")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    (train if arguments.verb == "train" else score)(arguments)


def train(arguments: argparse.Namespace) -> None:
    """Train, set the thresholds, and leave the labels of the test images."""
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D
    from tensorflow import keras

    from peers_worker import STARDIST_CONFIG

    class Deadline(keras.callbacks.Callback):
        end = time.monotonic() + 60 * arguments.minutes

        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = time.monotonic() > self.end

    parts = {part: read_pairs(arguments.data / part) for part in ("train", "val", "test")}
    images = {part: [normalize(image, 1, 99.8) for image, _ in pairs.values()] for part, pairs in parts.items()}
    labels = {part: [mask for _, mask in pairs.values()] for part, pairs in parts.items()}
    generator = np.random.default_rng(arguments.seed)
    config = Config2D(**STARDIST_CONFIG, train_tensorboard=False)
    model = StarDist2D(config, name="stardist", basedir=str(arguments.out))
    model.prepare_for_training()
    model.callbacks.append(Deadline())
    model.train(
        images["train"],
        labels["train"],
        validation_data=(images["val"], labels["val"]),
        augmenter=lambda image, mask: augment(image, mask, generator),
        seed=arguments.seed,
        epochs=arguments.epochs,
        steps_per_epoch=arguments.steps,
    )
    model.optimize_thresholds(images["val"], labels["val"])
    found = {name: model.predict_instances(image)[0] for name, image in zip(parts["test"], images["test"])}
    np.savez_compressed(arguments.out / "test_labels.npz", **found)
    print(f"labels: {arguments.out / 'test_labels.npz'}")


def augment(image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Flip and turn both, change gain and offset of the image, add noise."""
    turns, flip = int(generator.integers(4)), bool(generator.integers(2))
    image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    if flip:
        image, mask = image[::-1], mask[::-1]
    image = image * generator.uniform(0.6, 2) + generator.uniform(-0.2, 0.2)
    noise = 0.02 * generator.uniform() * generator.standard_normal(image.shape)
    return (image + noise).astype(np.float32), np.ascontiguousarray(mask)


def score(arguments: argparse.Namespace) -> None:
    """Print the row of StarDist, as ``segment_nuclei.py quality`` prints Abbe's."""
    from abbe.metrics.instances import bootstrap, match, scores
    from tables import print_table

    file = arguments.out / "test_labels.npz"
    if not file.exists():
        sys.exit(f"left out: {file} is not there; train first")
    found, truth = np.load(file), read_pairs(arguments.data / "test")
    matches = [match(mask.astype(np.int32), found[name].astype(np.int32)) for name, (_, mask) in truth.items()]
    numbers = scores(matches)
    row = [f"StarDist, {len(matches)} test images"]
    for name in ("ap50", "ap75", "map50_90", "f1_50", "pq", "count_error"):
        low, high = bootstrap(matches, name, seed=0)
        row.append(f"{numbers[name]:.3f} [{low:.3f}, {high:.3f}]")
    header = ["program", "AP@0.5", "AP@0.75", "mean AP 0.5-0.9", "F1@0.5", "PQ", "count error"]
    print_table(f"StarDist trained on {arguments.data.name} [95 % intervals by resampling images]", header, [row])


def read_pairs(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read ``images/*.png`` and ``masks/*.png`` of equal names: grey image and labels (Y, X)."""
    from skimage.io import imread

    pairs = {}
    for file in sorted((folder / "images").glob("*.png")):
        image, mask = imread(file), imread(folder / "masks" / file.name)
        pairs[file.stem] = (image if image.ndim == 2 else image[..., 0], mask.astype(np.int32))
    return pairs


if __name__ == "__main__":
    main()
