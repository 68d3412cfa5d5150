"""How images come to a network of whole pictures; for published weights as their publisher's own code has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from timm.data import create_transform
from torchvision.transforms._presets import ImageClassification

import abbe
from abbe import views as module
from abbe.data.image import Image
from abbe.data.normalize import Normalization
from abbe.data.squares import square
from abbe.errors import AbbeError
from abbe.model import Model, load_model
from abbe.settings import ClassifySettings
from abbe.views import Views, boxes_of, views_of

MEAN, STD, SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 32
COLOURS = {"mean": list(MEAN), "std": list(STD), "size": SIZE}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def published(backbone_file: Write) -> Model:
    return load_model(backbone_file(colours=COLOURS))


def frame_of(pixels: np.ndarray) -> Image:
    """Make an image of (C, Y, X)."""
    return Image(pixels, "CYX", name="picture")


def picture(seed: int = 0, side: int = SIZE, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    kind = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(0, kind.max, (channels, side, side), endpoint=True).astype(dtype)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_published_weights_see_a_picture_as_their_library_shows_it(library: str, published: Model) -> None:
    pixels = picture()
    if library == "timm":
        size = (3, SIZE, SIZE)
        transform: Any = create_transform(size, mean=MEAN, std=STD, crop_pct=1.0, interpolation="bicubic")
    else:
        transform = ImageClassification(crop_size=SIZE, resize_size=SIZE, mean=MEAN, std=STD)
    theirs = transform(PillowImage.fromarray(pixels.transpose(1, 2, 0)))
    ours = views_of(published).picture(frame_of(pixels))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_a_grey_picture_is_shown_as_three_equal_channels(published: Model) -> None:
    grey = picture(channels=1)
    views = views_of(published)
    np.testing.assert_array_equal(views.picture(frame_of(grey)), views.picture(frame_of(grey.repeat(3, axis=0))))


def test_sixteen_bits_are_scaled_by_their_range_or_by_the_image(published: Model) -> None:
    pixels = picture()
    wide = pixels.astype(np.uint16) * 257
    seen = views_of(published).picture(frame_of(pixels))
    np.testing.assert_allclose(views_of(published).picture(frame_of(wide)), seen, atol=1e-5)
    stretched = views_of(published, ClassifySettings(contrast="percentile"))
    dim = stretched.picture(frame_of((wide // 100).astype(np.uint16)))
    np.testing.assert_allclose(dim, stretched.picture(frame_of(wide // 100 * 50)), atol=1e-4)
    assert np.ptp(dim) > 10 * np.ptp(views_of(published).picture(frame_of(wide // 100)))


def test_percentiles_come_first_where_the_model_says_so(backbone_file: Write) -> None:
    model = load_model(backbone_file(colours=COLOURS, normalization={"kind": "minmax"}))
    pixels = picture(dtype="uint16")
    expected = Normalization("minmax").normalize(pixels)
    expected = (expected - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(views_of(model).picture(frame_of(pixels)), expected, atol=1e-5)


def test_models_that_say_nothing_of_colours_are_shown_normalised_values(backbone_file: Write) -> None:
    pixels = picture(side=50)
    seen = views_of(load_model(backbone_file())).picture(frame_of(pixels))
    np.testing.assert_allclose(seen, square((pixels / 255).astype(np.float32), SIZE, "crop"), atol=1e-6)


def test_what_an_object_shows_is_what_a_file_of_its_square_shows(published: Model) -> None:
    pixels, views = picture(side=90), replace(views_of(published), object_margin=0.0)
    boxes = [((10, 40), (20, 50)), ((60, 90), (0, 30))]
    for box, seen in zip(boxes, views.squares(frame_of(pixels), boxes), strict=True):
        (top, bottom), (left, right) = box
        alone = frame_of(pixels[:, top:bottom, left:right])
        np.testing.assert_array_equal(seen, views.picture(alone))


def test_images_too_large_to_read_at_once_are_seen_alike(published: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 999, (1, 90, 130)).astype(np.uint16)
    views = views_of(published, ClassifySettings(contrast="percentile"))
    whole = views.picture(frame_of(pixels))
    boxes = [((5, 25), (100, 128))]
    square_of = next(views.squares(frame_of(pixels), boxes))
    monkeypatch.setattr(module, "AT_ONCE", 130 * 7)
    assert np.allclose(views.picture(frame_of(pixels)), whole, atol=1e-4)
    assert np.array_equal(next(views.squares(frame_of(pixels), boxes)), square_of)


def test_colours_of_other_channels_are_those_of_the_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "resnet18-f37072fd.pth"
    monkeypatch.setattr("abbe.adopt.check_hash", lambda path, record: None)
    torch.save(_torchvision_names(abbe.create("resnet18")), weights)
    for channels, mean in ((1, [sum(MEAN) / 3]), (3, list(MEAN)), (5, [*MEAN, *MEAN[:2]])):
        stored = abbe.convert(weights, tmp_path / f"of{channels}.safetensors", in_channels=channels)
        views = views_of(load_model(stored))
        assert views.mean == pytest.approx(mean)
        assert (views.channels, views.size, views.normalization.kind) == (channels, 224, "range")
        assert views.picture(frame_of(picture(channels=channels))).shape == (channels, 224, 224)


def _torchvision_names(network: Any) -> dict[str, torch.Tensor]:
    from abbe.weights.tables.resnet import LAYOUTS

    return LAYOUTS[0].to_theirs(network.state_dict(), {})


def test_what_cannot_be_shown_is_told(backbone_file: Write, bright: Model, published: Model) -> None:
    with pytest.raises(AbbeError, match="model 'bright' does not look at whole pictures; expected a classifier"):
        views_of(bright)
    with pytest.raises(AbbeError, match="does not say how large its pictures are; give their side"):
        views_of(load_model(backbone_file(size=0)))
    assert views_of(load_model(backbone_file(size=0)), ClassifySettings(size=40)).size == 40
    with pytest.raises(AbbeError, match="pictures of 0 px; expected 1 px at least"):
        views_of(published, ClassifySettings(size=0))
    with pytest.raises(AbbeError, match="has mean and std of 1 and 1 channels, but takes 3"):
        views_of(load_model(backbone_file(colours={"mean": [0.5], "std": [0.5]})))
    with pytest.raises(AbbeError, match="squares of side 0"):
        views_of(published, ClassifySettings(object_side=0))
    with pytest.raises(AbbeError, match="picture: 5 channels, but the model takes 1 or 3"):
        views_of(published).picture(frame_of(picture(channels=5)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.sampled_from(["crop", "pad", "stretch"]))
def test_pictures_of_any_shape_become_squares(height: int, width: int, channels: int, fit: Any) -> None:
    views = Views(Normalization("range"), 3, 16, fit, mean=MEAN, std=STD)
    seen = views.picture(frame_of(np.full((channels, height, width), 255, np.uint8)))
    assert seen.shape == (3, 16, 16)
    white = (1 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(seen, np.broadcast_to(white[:, None, None], seen.shape), atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.lists(st.integers(1, 2**31 - 1), min_size=0, max_size=5, unique=True))
def test_boxes_hold_their_objects_whatever_the_numbers(seed: int, numbers: list[int]) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.array([0, *numbers], np.int64), (9, 11)).astype(np.int32)
    found, boxes = boxes_of(labels)
    assert found.tolist() == [n for n in sorted(numbers) if (labels == n).any()]
    for number, box in zip(found, boxes, strict=True):
        places = np.nonzero(labels == number)
        assert box == tuple((int(along.min()), int(along.max()) + 1) for along in places)
