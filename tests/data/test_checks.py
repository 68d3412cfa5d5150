from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from abbe.data.checks import Finding, check_dataset
from abbe.data.datasets import Pairs, find_pairs


def disks(count: int = 4, radius: int = 6, size: int = 100, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    for number in range(1, count + 1):
        cy, cx = 25 * ((number - 1) // 4) + 12, 25 * ((number - 1) % 4) + 12
        labels[np.hypot(y - cy, x - cx) < radius + generator.uniform(0, 1)] = number
    return labels


def write(root: Path, name: str, labels: np.ndarray, seed: int = 0, pixel_size: float | None = None) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, labels.shape, dtype=np.uint8)
    metadata = {"axes": "YX"}
    if pixel_size:
        metadata |= {f"PhysicalSize{a}": pixel_size for a in "XY"} | {f"PhysicalSize{a}Unit": "µm" for a in "XY"}  # type: ignore[misc]
    tifffile.imwrite(root / f"images/{name}.ome.tif", pixels, metadata=metadata)
    tifffile.imwrite(root / f"masks/{name}.tif", labels)


def findings(root: Path) -> list[Finding]:
    return check_dataset(find_pairs(root))


def the_only(root: Path, level: str) -> str:
    found = findings(root)
    assert len(found) == 1, found
    assert found[0].level == level
    return found[0].text


@pytest.fixture
def good(tmp_path: Path) -> Path:
    for n in range(4):
        write(tmp_path, f"good{n}", disks(seed=n), seed=n, pixel_size=0.5)
    return tmp_path


def test_a_good_data_set_has_no_findings(good: Path) -> None:
    assert findings(good) == []


def test_unpaired_files(good: Path) -> None:
    (good / "masks/good1.tif").unlink()
    text = the_only(good, "warning")
    assert "1 file without partner" in text
    assert "good1.ome.tif" in text


def test_another_shape_is_an_error_and_the_others_are_still_checked(good: Path) -> None:
    write(good, "bad", disks(size=100), seed=9, pixel_size=0.5)
    tifffile.imwrite(good / "masks/bad.tif", disks(size=101))
    assert "labels of 101 × 101 pixels, but bad.ome.tif has 100 × 100" in the_only(good, "error")


def test_labels_that_are_not_labels(good: Path) -> None:
    write(good, "float", disks() / 2, seed=8, pixel_size=0.5)
    assert "labels that are not labels: float64 with fractions" in the_only(good, "error")


def test_a_grey_image_as_labels(good: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 60, (100, 100)).astype(np.uint8)
    write(good, "grey", grey, seed=8, pixel_size=0.5)
    assert any(f.level == "error" and "as in a grey image" in f.text for f in findings(good))


def test_binary_and_empty_masks(good: Path) -> None:
    write(good, "binary", ((disks() > 0) * 255).astype(np.uint8), seed=8, pixel_size=0.5)
    write(good, "empty", np.zeros((100, 100), np.uint8), seed=9, pixel_size=0.5)
    texts = [finding.text for finding in findings(good)]
    assert len(texts) == 2
    assert any("binary.tif: binary; its 4 connected components" in text for text in texts)
    assert any("1 image without any object: empty" in text for text in texts)


def test_nothing_annotated_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((20, 20), np.uint8))
    assert "no object in any of 1 image" in the_only(tmp_path, "error")


def test_pixel_sizes(good: Path) -> None:
    write(good, "coarse", disks(), seed=8, pixel_size=2.6)
    write(good, "unknown", disks(), seed=9)
    texts = [finding.text for finding in findings(good)]
    assert len(texts) == 2
    assert any("5 images have a pixel size, 1 have none: unknown" in text for text in texts)
    assert any("from 0.5 µm" in text and "2.6 µm (coarse)" in text for text in texts)


def test_unusual_object_sizes(good: Path) -> None:
    labels = disks()
    labels[95, 95] = 77
    write(good, "speck", labels, seed=8, pixel_size=0.5)
    huge = np.zeros((100, 100), np.uint16)
    huge[5:95, 5:95] = 3
    write(good, "huge", huge, seed=9, pixel_size=0.5)
    texts = [finding.text for finding in findings(good)]
    assert len(texts) == 2
    assert any("1 object more than 5 times larger" in text and "in huge" in text for text in texts)
    assert any("1 object more than 5 times smaller" in text and "in speck" in text for text in texts)


def test_one_label_in_two_places(good: Path) -> None:
    labels = disks()
    labels[labels == 4] = 1
    write(good, "torn", labels, seed=8, pixel_size=0.5)
    text = the_only(good, "warning")
    assert "1 label in several places far apart: 1" in text


def test_neighbouring_pieces_are_not_far_apart(good: Path) -> None:
    labels = disks()
    labels[12, :] = 0
    write(good, "cut", labels, seed=8, pixel_size=0.5)
    assert findings(good) == []


def test_one_image_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    for part, seed in (("train", 1), ("test", 1), ("val", 2)):
        write(tmp_path / part, f"image_{part}", disks(), seed=seed)
    text = the_only(tmp_path, "error")
    assert "the same image in test and train" in text


def test_a_duplicate_within_a_split_is_a_warning(good: Path) -> None:
    write(good, "twice", disks(), seed=1, pixel_size=0.5)
    assert "the same image 2 times" in the_only(good, "warning")


def test_constant_image(good: Path) -> None:
    write(good, "flat", disks(), seed=8, pixel_size=0.5)
    PIL.Image.fromarray(np.full((100, 100), 7, np.uint8)).save(good / "images/flat.png")
    (good / "images/flat.ome.tif").unlink()
    assert any("every pixel has the value 7" in finding.text for finding in findings(good))


def test_errors_come_first_and_progress_is_told(good: Path) -> None:
    (good / "masks/good1.tif").write_bytes(b"broken")
    (good / "masks/good2.tif").unlink()
    seen: list[tuple[int, int]] = []
    found = check_dataset(find_pairs(good), progress=lambda done, all_: seen.append((done, all_)))
    assert [finding.level for finding in found] == ["error", "warning"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert check_dataset(Pairs()) == []
