from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from abbe.data.augment import AugmentConfig
from abbe.data.datasets import Pair, PairDataset, TrainingDataset, find_pairs, find_splits, split
from abbe.data.image import Image
from abbe.data.sample import Sample
from abbe.data.write_zarr import write_image_zarr
from abbe.errors import AbbeError

SHARED = Path(__file__).parents[2] / "../shared/data/dsb2018"


def as_float(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 255).astype(np.float32)


def image(path: Path, seed: int = 0, shape: tuple[int, ...] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        PIL.Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, shape: tuple[int, ...] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(shape, np.uint16)
    labels[2:8, 2:9], labels[10:16, 10:20] = 2, 5
    tifffile.imwrite(path, labels) if path.suffix == ".tif" else PIL.Image.fromarray(labels).save(path)
    return path


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_images_beside_masks(tmp_path: Path, folder: str) -> None:
    for name in ("b", "a", "sub/c d µ"):
        image(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"{folder}/{name}.tif")
    image(tmp_path / "images/lonely.png")
    mask(tmp_path / f"{folder}/orphan.png")
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b", "sub/c d µ"]
    assert [path.name for path in pairs.unpaired] == ["lonely.png", "orphan.png"]
    assert all(pair.image.stem == pair.labels.stem for pair in pairs)


@pytest.mark.parametrize("ending", ["_mask", "_masks", "_label", "_labels", "_cp_masks"])
def test_masks_with_an_ending(tmp_path: Path, ending: str) -> None:
    image(tmp_path / "well/a.1.tif")
    mask(tmp_path / f"well/a.1{ending}.tif")
    image(tmp_path / "well/b.tif")
    (tmp_path / "well/.a.tif").write_bytes(b"x")
    (tmp_path / "well/notes.txt").write_text("x")
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["well/a.1"]
    assert [path.name for path in pairs.unpaired] == ["b.tif"]
    # The same ending inside masks/.
    image(tmp_path / "other/images/c.tif")
    mask(tmp_path / f"other/masks/c{ending}.tif")
    assert [pair.name for pair in find_pairs(tmp_path)] == ["other/c", "well/a.1"]


def test_ome_tiff_pairs_with_png(tmp_path: Path) -> None:
    tifffile.imwrite(image(tmp_path / "images/a.ome.tif"), np.zeros((20, 24), np.uint8))
    mask(tmp_path / "masks/a.png")
    assert [pair.name for pair in find_pairs(tmp_path)] == ["a"]


def test_imagej_regions_beside_images(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    (tmp_path / "a.zip").write_bytes(b"")
    image(tmp_path / "b.tif")
    (tmp_path / "b.roi").write_bytes(b"")
    assert [pair.labels.name for pair in find_pairs(tmp_path)] == ["a.zip", "b.roi"]


@pytest.mark.parametrize("where", ["", "images/"])
def test_coco(tmp_path: Path, where: str) -> None:
    for name in ("a.png", "b.png", "unlisted.png"):
        image(tmp_path / where / name)
    item = {"image_id": 1, "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]]}
    images = [{"id": n, "file_name": f} for n, f in enumerate(("a.png", "b.png", "gone.png"), 1)]
    document = tmp_path / "annotations.json"
    document.write_text(json.dumps({"images": images, "annotations": [item]}))
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert [path.name for path in pairs.unpaired] == ["gone.png", "unlisted.png"]
    dataset = PairDataset(pairs, as_float)
    assert (dataset[0].labels == 1).sum() == 64
    assert (dataset[1].labels == 0).all()
    (tmp_path / "second.json").write_text(document.read_text())
    with pytest.raises(AbbeError, match=r"annotations.json and second.json"):
        find_pairs(tmp_path)


def test_splits_are_known_by_their_folders(tmp_path: Path) -> None:
    for part in ("train", "Validation", "test"):
        image(tmp_path / part / "images/a.png")
        mask(tmp_path / part / "masks/a.png")
    assert {name: path.name for name, path in find_splits(tmp_path).items()} == {
        "train": "train", "val": "Validation", "test": "test"
    }  # fmt: skip
    pairs = find_pairs(tmp_path)
    assert sorted(pair.split for pair in pairs) == ["test", "train", "val"]
    assert len({pair.name for pair in pairs}) == 3
    assert find_pairs(tmp_path / "test")[0].split == "test"


def test_bad_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="no such folder"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(AbbeError, match=r"no pairs of image and labels \(0 unpaired"):
        find_pairs(tmp_path)
    image(tmp_path / "images/a.png")
    with pytest.raises(AbbeError, match=r"1 unpaired files\); expected images/"):
        find_pairs(tmp_path)
    image(tmp_path / "images/a.tif")
    mask(tmp_path / "masks/a.png")
    with pytest.raises(AbbeError, match="same stem"):
        find_pairs(tmp_path)


def test_samples_are_normalised_with_labels_and_pixel_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)
    path = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, pixels, metadata={"axes": "YX", **size})
    mask(tmp_path / "a_mask.tif")
    sample = PairDataset(find_pairs(tmp_path), as_float)[0]
    np.testing.assert_allclose(sample.image, pixels[None] / 255, rtol=1e-6)
    assert sample.labels is not None
    assert sample.labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(sample.labels), [0, 2, 5])
    assert sample.pixel_size == pytest.approx((0.25, 0.5))
    assert sample.name == "a"


def test_grey_and_colour_are_matched(tmp_path: Path) -> None:
    image(tmp_path / "images/grey.png")
    image(tmp_path / "images/rgb.png", shape=(20, 24, 3))
    mask(tmp_path / "masks/grey.png")
    mask(tmp_path / "masks/rgb.png")
    pairs = find_pairs(tmp_path)
    assert [s.image.shape[0] for s in PairDataset(pairs, as_float)] == [1, 3]
    assert [s.image.shape[0] for s in PairDataset(pairs, as_float, 3)] == [3, 3]
    assert [s.image.shape[0] for s in PairDataset(pairs, as_float, 1)] == [1, 1]
    with pytest.raises(AbbeError, match="grey: 1 channels"):
        PairDataset(pairs, as_float, 2)[0]


def test_stacks_are_read_whole(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (4, 2, 20, 24), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "ZCYX"})
    labels = np.zeros((4, 20, 24), np.uint16)
    labels[1:3, 3:9, 3:9] = 4
    tifffile.imwrite(tmp_path / "a_mask.ome.tif", labels, metadata={"axes": "ZYX"})
    pairs = find_pairs(tmp_path)
    sample = PairDataset(pairs, as_float, volume=True)[0]
    np.testing.assert_allclose(sample.image, stack.transpose(1, 0, 2, 3) / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.labels, labels)
    one = PairDataset(pairs, as_float, 1, volume=True, channel=1)[0]
    np.testing.assert_allclose(one.image[0], stack[:, 1] / 255, rtol=1e-6)


def stack_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Write a stack as OME-Zarr into ``images`` of a folder; gives it and labels for it."""
    stack = np.random.default_rng(len(name)).integers(0, 255, (4, 20, 24), dtype=np.uint8)
    sizes = {"z": 2.0, "y": 0.5, "x": 0.5}
    write_image_zarr(folder / f"{name}.ome.zarr", Image(stack, "ZYX", sizes, name=name))
    labels = np.zeros(stack.shape, np.int32)
    labels[1:3, 3:9, 3:9], labels[2:, 12:, 12:] = 4, 7
    return stack, labels


@pytest.mark.parametrize("layout", ["masks", "tiff", "beside", "inside"])
def test_ome_zarr_stacks_pair_with_their_labels(tmp_path: Path, layout: str) -> None:
    images = tmp_path if layout in ("beside", "inside") else tmp_path / "images"
    stack, labels = stack_pair(images, "a")
    sizes = {"z": 2.0, "y": 0.5, "x": 0.5}
    if layout == "masks":
        write_image_zarr(tmp_path / "masks/a.ome.zarr", Image(labels, "ZYX", sizes))
    elif layout == "tiff":
        (tmp_path / "masks").mkdir()
        tifffile.imwrite(tmp_path / "masks/a.tif", labels.astype(np.uint16), metadata={"axes": "ZYX"})
    elif layout == "beside":
        write_image_zarr(tmp_path / "a_labels.ome.zarr", Image(labels, "ZYX", sizes))
    else:
        write_image_zarr(tmp_path / "a.ome.zarr/labels/nuclei", Image(labels, "ZYX", sizes))
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a"]
    assert pairs.unpaired == []
    sample = PairDataset(pairs, as_float, 1, volume=True)[0]
    np.testing.assert_allclose(sample.image[0], stack / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.labels, labels)
    assert sample.pixel_size == (2.0, 0.5, 0.5)


def test_planes_in_ome_zarr_are_found_too(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 255, (20, 24), dtype=np.uint8)
    write_image_zarr(tmp_path / "images/sub/a.ome.zarr", Image(plane, "YX", {}))
    mask(tmp_path / "masks/sub/a.tif")
    pairs = find_pairs(tmp_path)
    np.testing.assert_allclose(PairDataset(pairs, as_float)[0].image[0], plane / 255, rtol=1e-6)
    assert pairs[0].name == "sub/a"


def test_an_ome_zarr_with_several_labels_is_told(tmp_path: Path) -> None:
    _, labels = stack_pair(tmp_path, "a")
    for name in ("cells", "nuclei"):
        write_image_zarr(tmp_path / f"a.ome.zarr/labels/{name}", Image(labels, "ZYX", {}))
    with pytest.raises(AbbeError, match=r"a\.ome\.zarr: holds 2 label images \(cells, nuclei\)"):
        find_pairs(tmp_path)


def test_a_stack_of_one_plane_takes_a_mask_of_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((1, 20, 24), np.uint8), metadata={"axes": "ZYX"})
    mask(tmp_path / "a_mask.tif")
    sample = PairDataset(find_pairs(tmp_path), as_float, volume=True)[0]
    assert sample.labels is not None
    assert sample.image.shape[1:] == sample.labels.shape == (1, 20, 24)


def test_the_cache_reads_once(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    mask(tmp_path / "a_mask.png")
    dataset = PairDataset(find_pairs(tmp_path), as_float, cache=True)
    first = dataset[0]
    (tmp_path / "a.png").unlink()
    assert dataset[0] is first


def pairs_named(names: list[str]) -> list[Pair]:
    return [Pair(Path(name), Path(name), name) for name in names]


@given(names=st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=4, max_size=60), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_split_divides_and_is_stable(names: set[str], seed: int) -> None:
    pairs = pairs_named(sorted(names))
    parts = split(pairs, (0.7, 0.2, 0.1), seed)
    assert sorted(pair.name for part in parts for pair in part) == sorted(names)
    assert all(parts)
    assert split(pairs[::-1], (0.7, 0.2, 0.1), seed) == parts


def test_split_keeps_pairs_where_they_are_and_has_the_sizes_asked_for() -> None:
    pairs = pairs_named([f"image {n}" for n in range(2000)])
    train, val = split(pairs, (0.8, 0.2), 3)
    assert len(val) == pytest.approx(400, abs=60)
    fewer = split(pairs[:1000], (0.8, 0.2), 3)
    assert set(fewer[1]) < set(val)
    assert set(split(pairs, (0.8, 0.2), 4)[1]) != set(val)
    assert not set(train) & set(val)
    with pytest.raises(AbbeError, match="fractions"):
        split(pairs, (0.0, 0.0))


def constant_samples() -> list[Sample]:
    labels = np.zeros((40, 40), np.int32)
    labels[5:30, 5:30] = 1
    return [Sample(np.full((1, 40, 40), value, np.float32), labels, name=str(value)) for value in (0.2, 0.4, 0.6)]


def to_tensors(sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
    noise = generator.random()
    return {"image": torch.from_numpy(sample.image), "noise": torch.tensor(noise)}


def items(dataset: TrainingDataset, workers: int) -> list[torch.Tensor]:
    return [b["image"] for b in DataLoader(dataset, batch_size=2, num_workers=workers)]


def test_items_depend_on_seed_epoch_and_index_alone() -> None:
    def make(seed: int) -> TrainingDataset:
        return TrainingDataset(constant_samples(), to_tensors, AugmentConfig(), (16, 16), 6, seed)

    dataset = make(1)
    alone = items(dataset, 0)
    for one, two in zip(alone, items(dataset, 2), strict=True):
        assert torch.equal(one, two)
    np.random.seed(0)  # noqa: NPY002  the global state must not matter
    assert torch.equal(dataset[4]["image"], alone[2][0])
    dataset.set_epoch(1)
    assert not torch.equal(dataset[4]["image"], alone[2][0])
    other = make(1)
    other.set_epoch(1)
    assert torch.equal(other[4]["image"], dataset[4]["image"])
    assert not torch.equal(make(2)[4]["image"], alone[2][0])


def test_workers_that_live_on_see_the_next_epoch() -> None:
    dataset = TrainingDataset(constant_samples(), to_tensors, AugmentConfig(), (16, 16), 4, 0)
    loader = DataLoader(dataset, num_workers=1, persistent_workers=True)
    first = [batch["noise"].item() for batch in loader]
    dataset.set_epoch(1)
    second = [batch["noise"].item() for batch in loader]
    dataset.set_epoch(0)
    assert first != second
    assert [batch["noise"].item() for batch in loader] == first


def test_samples_are_drawn_by_weight() -> None:
    dataset = TrainingDataset(constant_samples(), to_tensors, None, (40, 40), 600, 0, weights=(1, 0, 3))
    values = np.array([dataset[i]["image"][0, 0, 0].item() for i in range(600)])
    assert not np.isclose(values, 0.4).any()
    assert np.isclose(values, 0.6).mean() == pytest.approx(0.75, abs=0.06)
    with pytest.raises(IndexError):
        dataset[600]
    with pytest.raises(AbbeError, match="2 sampling weights for 3 images"):
        TrainingDataset(constant_samples(), to_tensors, None, (40, 40), 6, 0, weights=(1, 1))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_nuclei_are_found() -> None:
    pairs = find_pairs(SHARED)
    counts = {part: sum(pair.split == part for pair in pairs) for part in ("train", "val", "test")}
    assert counts == {"train": 441 + 83 + 16, "val": 50 + 12, "test": 50 + 12}
    assert pairs.unpaired == []
    sample = PairDataset(pairs[:1], as_float)[0]
    assert sample.labels is not None
    assert sample.labels.max() > 0
