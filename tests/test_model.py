"""A model finds in an image of any size and kind what it was made to find, or says why it cannot."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import abbe
from abbe import model as model_module
from abbe import segmentation as segmentation_module
from abbe.api import restore, translate
from abbe.batch import Outputs
from abbe.data import stored_labels
from abbe.data.read import read
from abbe.data.select import select
from abbe.data.stored_labels import StoredLabels
from abbe.errors import AbbeError
from abbe.folders import segment_files
from abbe.methods.attention import roformer
from abbe.methods.restoration.nafnet import VARIANTS
from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.model import Model, build_method, load_model
from abbe.segmentation import Canvas, Numbering
from abbe.settings import ImageSettings, RestoreSettings, SegmentSettings
from abbe.tiling.merge import Finished
from abbe.weights.file import Description, read_model, save_model
from abbe.weights.tables.roformer import TRANSFORMERS

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]
Same = Callable[[np.ndarray, np.ndarray], bool]


def resaved(file: Path, path: Path, **changes: Any) -> Path:
    """Save a model again with another description."""
    tensors, description = read_model(file)
    return save_model(path, tensors, dataclasses.replace(description, **changes))


# ------------------------------------------------------------------------------------------------ what is found


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_bright_discs_are_the_objects(bright: Model, plain: SegmentSettings, discs: Draw, dtype: str) -> None:
    image, expected = discs(dtype=dtype)
    result = bright.predict(image, plain)
    assert np.array_equal(result.labels, expected)
    assert result.labels.dtype == np.int32
    assert result.objects["label"].tolist() == list(range(1, expected.max() + 1))
    assert result.objects["area"].tolist() == np.bincount(expected.ravel())[1:].tolist()
    assert result.overlay().shape == (*image.shape, 3)
    assert result.seconds > 0


@given(st.integers(1, 130), st.integers(1, 130), st.integers(48, 90), st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_tiles_change_nothing(
    bright: Model, discs: Draw, same_objects: Same, height: int, width: int, tile: int, seed: int
) -> None:
    image, expected = discs((height, width), 8, seed)
    expected = expected if image.min() < image.max() else np.zeros_like(expected)  # nothing but disc has no contrast
    result = bright.predict(image, SegmentSettings(device="cpu", precision="exact", tile=tile, diameter=20))
    assert same_objects(result.labels, expected)


def test_a_network_of_random_weights_gives_the_same_objects_tiled_and_whole(
    tiny: InstanceSegmentation, bright: Model, plain: SegmentSettings, same_objects: Same
) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(150, 170)), 3).astype(np.float32)
    model = Model(tiny, dataclasses.replace(bright.description, diameter=None))
    whole = model.predict(image, dataclasses.replace(plain, min_area=4))
    tiled = model.predict(image, dataclasses.replace(plain, min_area=4, tile=64))
    assert whole.labels.max() > 3
    assert same_objects(tiled.labels, whole.labels)


@pytest.mark.parametrize("precision", ["exact", "float32", "bfloat16"])
def test_precisions_agree(bright: Model, discs: Draw, precision: Any) -> None:
    image, expected = discs()
    chosen = SegmentSettings(device="cpu", precision=precision, backend="torch")
    assert np.array_equal(bright.predict(image, chosen).labels, expected)


def test_two_summits_of_one_region_are_two_objects(bright: Model, plain: SegmentSettings) -> None:
    image = np.zeros((40, 60), np.float32)
    image[10:30, 10:50] = 0.7  # foreground, but no seed
    image[13:27, 13:25] = image[13:27, 35:47] = 1
    result = bright.predict(image, plain)
    assert result.labels.max() == 2
    assert np.array_equal(result.labels > 0, image > 0.5)
    assert result.labels[20, 18] != result.labels[20, 41]


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (1, 77)])
def test_odd_shapes(bright: Model, plain: SegmentSettings, shape: tuple[int, int]) -> None:
    image = np.zeros(shape, np.uint16)
    image[:, shape[1] // 2 :] = 500
    result = bright.predict(image, dataclasses.replace(plain, tile=96, diameter=20))
    assert result.labels.shape == shape
    assert result.labels.max() == (1 if max(shape) > 1 and image.any() and image.min() == 0 else 0)


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_is_empty(bright: Model, plain: SegmentSettings, value: int) -> None:
    result = bright.predict(np.full((50, 60), value, np.uint16), plain)
    assert result.labels.max() == 0
    assert len(result.objects) == 0


def test_nan_and_infinity_spoil_only_their_own_pixels(bright: Model, plain: SegmentSettings, discs: Draw) -> None:
    image, expected = discs(dtype="float32")
    image[:3, :3] = [np.nan, np.inf, -np.inf]
    expected[:3, :3] = 0
    found = bright.predict(image, plain).labels
    assert np.array_equal(found > 0, expected > 0)
    assert (bright.predict(np.full((20, 20), np.nan, np.float32), plain).labels == 0).all()


def test_a_binary_image_is_an_image(bright: Model, plain: SegmentSettings, discs: Draw) -> None:
    _, expected = discs()
    assert np.array_equal(bright.predict(expected > 0, plain).labels, expected)


def test_colours_are_seen_together(bright: Model, plain: SegmentSettings, discs: Draw) -> None:
    grey, expected = discs(dtype="uint8")
    assert np.array_equal(bright.predict(np.dstack([grey] * 3), plain).labels, expected)


def test_a_stack_of_channels_needs_a_choice(bright: Model, plain: SegmentSettings, discs: Draw) -> None:
    image, expected = discs()
    stack = np.zeros((300, *image.shape), np.uint16)
    stack[42] = image
    with pytest.raises(AbbeError, match="300 channels, but the model takes 1 or 3 channels; .*--channel"):
        bright.predict(stack, dataclasses.replace(plain, axes="CYX"))
    assert np.array_equal(bright.predict(stack, dataclasses.replace(plain, axes="CYX", channel=42)).labels, expected)


def test_five_axes_need_a_choice(bright: Model, plain: SegmentSettings, discs: Draw, tmp_path: Path) -> None:
    image, expected = discs()
    stack = np.zeros((2, 3, 2, *image.shape), np.uint16)
    stack[1, 2, 1] = image
    tifffile.imwrite(tmp_path / "5d.ome.tif", stack, metadata={"axes": "TZCYX"})
    with pytest.raises(
        AbbeError,
        match=r"^5d\.ome\.tif: 5 axes TZCYX .*--time 0\.\.1 and --z 0\.\.2, or take.* --time all --z all; --ch",
    ):
        bright.predict(tmp_path / "5d.ome.tif", plain)
    chosen = dataclasses.replace(plain, time=1, z=2, channel=1)
    assert np.array_equal(bright.predict(tmp_path / "5d.ome.tif", chosen).labels, expected)


def test_all_planes_and_times_are_done_one_by_one(
    bright: Model, plain: SegmentSettings, discs: Draw, same_objects: Same, tmp_path: Path
) -> None:
    planes = [[discs(number=2 + time + z, seed=5 * time + z) for z in range(3)] for time in range(2)]
    stack = np.stack([[image for image, _ in row] for row in planes])
    tifffile.imwrite(tmp_path / "4d.ome.tif", stack, metadata={"axes": "TZYX"})
    looped = dataclasses.replace(plain, time="all", z="all")
    for chosen in (looped, dataclasses.replace(looped, tile=96)):
        found = bright.predict(tmp_path / "4d.ome.tif", chosen)
        assert found.labels.shape == stack.shape
        assert found.objects["label"].tolist() == list(range(1, found.labels.max() + 1))
        for time, z in np.ndindex(2, 3):
            expected = planes[time][z][1]
            assert same_objects(found.labels[time, z], expected)
            rows = found.objects.query("time == @time and z == @z")
            assert sorted(rows["area"]) == sorted(np.bincount(expected.ravel())[1:])
    one = bright.predict(tmp_path / "4d.ome.tif", dataclasses.replace(plain, time=1, z="all"))
    assert same_objects(one.labels[2], planes[1][2][1])
    assert "time" not in one.objects


def test_all_channels_are_done_one_by_one(
    bright: Model, plain: SegmentSettings, discs: Draw, same_objects: Same, tmp_path: Path
) -> None:
    drawn = [discs(number=2 + i, seed=i) for i in range(2)]
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([image for image, _ in drawn]), metadata=metadata)
    found = bright.predict(tmp_path / "a.ome.tif", dataclasses.replace(plain, channel="all"))
    assert all(same_objects(found.labels[i], drawn[i][1]) for i in range(2))
    assert found.objects.groupby("channel").size().to_dict() == {"DAPI": 2, "GFP": 3}
    found.save(tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "a_labels.tif") as file:
        assert file.series[0].axes == "CYX"
        assert np.array_equal(file.asarray(), found.labels)


def test_the_planes_of_a_stack_share_their_brightness(bright: Model, plain: SegmentSettings, discs: Draw) -> None:
    """A plane out of focus, whose noise would be stretched to full contrast alone, stays empty."""
    image, _ = discs()
    series = select(read(np.stack([image, image // 100]), axes="ZYX"), dataclasses.replace(plain, z="all"))
    reader = bright.reader(series, plain)
    box = tuple((0, extent) for extent in image.shape)
    bright_plane, dim_plane = (reader.frame(number)(box) for number in (0, 1))
    assert np.ptp(dim_plane) < np.ptp(bright_plane) / 50


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("memory", [2**26, 100])
def test_objects_at_the_border_can_be_dropped(
    bright: Model, plain: SegmentSettings, discs: Draw, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_module, "IN_MEMORY", memory)  # the second time labels lie on the disk
    image, labels = discs((90, 90), 14, 5)
    cut = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    assert len(cut) > 1
    found = np.asarray(bright.predict(image, dataclasses.replace(plain, drop_border=True)).labels)
    assert np.array_equal(found > 0, (labels > 0) & ~np.isin(labels, cut))
    assert np.unique(found).tolist() == list(range(labels.max() - len(cut[cut > 0]) + 1))


def contents(file: Path) -> Any:
    """What a file holds; of an archive without the times of writing."""
    if file.suffix != ".zip":
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return [(member.filename, member.CRC) for member in archive.infolist()]


def test_labels_on_the_disk_go_with_their_last_reader(
    bright: Model, plain: SegmentSettings, discs: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_module, "IN_MEMORY", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image, expected = discs()
    result = bright.predict(image, plain)
    assert len(result.objects) == expected.max()
    labels = result.labels
    del result
    assert isinstance(labels, StoredLabels)
    assert np.array_equal(labels, expected)
    assert len(list(tmp_path.iterdir())) == 1
    del labels
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("axes", "format"), [("YX", "zarr"), ("TYX", "tiff"), ("ZYX", "zarr")])
def test_labels_on_the_disk_give_the_same_files(
    bright: Model, discs: Draw, tmp_path: Path, axes: str, format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = SegmentSettings(device="cpu", precision="exact", tile=96, diameter=16, z="all", time="all")
    monkeypatch.setattr(stored_labels, "CHUNK", 64)
    image = np.stack([discs((130, 150), 20, seed)[0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "a.ome.tif", image if len(axes) == 3 else image[0], metadata={"axes": axes})
    written = []
    for memory, name in ((2**26, "memory"), (0, "disk")):
        monkeypatch.setattr(segmentation_module, "IN_MEMORY", memory)
        out = tmp_path / name
        assert bright.path is not None
        segment_files([tmp_path / "a.ome.tif"], Outputs(out, rois=True, format=format), bright.path, chosen)
        files = [file for file in out.rglob("*") if file.is_file() and file.relative_to(out).parts[0][0] in "ao"]
        written.append({str(file.relative_to(out)): contents(file) for file in files})
    assert written[0] == written[1]


def test_small_objects_can_be_dropped(bright: Model, plain: SegmentSettings) -> None:
    image = np.zeros((60, 60), np.uint8)
    image[5:10, 5:10] = image[30:50, 30:50] = 200
    assert bright.predict(image, plain).labels.max() == 2
    assert bright.predict(image, dataclasses.replace(plain, min_area=26)).labels.max() == 1


@pytest.mark.parametrize(("diameter", "scale"), [(20, 1), (4, 2), (80, 0.5)])
def test_a_diameter_brings_objects_into_the_range_that_the_model_knows(
    bright: Model, plain: SegmentSettings, diameter: float, scale: float, discs: Draw
) -> None:
    image, expected = discs((150, 140), 3, 1, radius=20.0)
    result = bright.predict(image, dataclasses.replace(plain, diameter=diameter))
    assert result.scale == (scale, scale)
    assert result.labels.max() == expected.max()
    assert ((result.labels > 0) != (expected > 0)).mean() < 0.02
    with pytest.raises(AbbeError, match="a diameter of -3 px; expected more than 0"):
        bright.predict(image, dataclasses.replace(plain, diameter=-3))


def test_a_model_of_a_physical_size_scales_by_it(
    bright: Model, plain: SegmentSettings, discs: Draw, tmp_path: Path
) -> None:
    image, expected = discs((150, 140), 3, 1, radius=20.0)
    model = Model(bright.method, dataclasses.replace(bright.description, pixel_size=(0.5, 0.5)))
    with pytest.raises(AbbeError, match=r"pixel size unknown, but .* works at 0\.5 x 0\.5 µm.*--pixel-size"):
        model.predict(image, plain)
    result = model.predict(image, dataclasses.replace(plain, pixel_size=0.25))
    assert result.scale == (0.5, 0.5)
    assert result.labels.max() == expected.max()
    assert result.objects["area_um2"].sum() == pytest.approx((result.labels > 0).sum() / 16)


def test_a_large_factor_between_image_and_network_leaves_no_seam(
    bright: Model, plain: SegmentSettings, discs: Draw, same_objects: Same
) -> None:
    image, expected = discs((30, 40), 3, 2, radius=7.0)
    model = Model(bright.method, dataclasses.replace(bright.description, pixel_size=(0.5, 0.5)))
    coarse = dataclasses.replace(plain, pixel_size=6.0)
    tiled, whole = (model.predict(image, dataclasses.replace(coarse, tile=tile)) for tile in (160, 1536))
    assert tiled.scale == (12, 12)
    assert tiled.labels.max() == expected.max() > 1
    assert same_objects(tiled.labels, whole.labels)


def test_a_pixel_size_that_is_none_is_refused() -> None:
    with pytest.raises(AbbeError, match="a pixel size of 0 µm; expected more than 0"):
        select(np.zeros((4, 4), np.uint8), ImageSettings(pixel_size=0))


def test_progress_rises_to_one(bright: Model, discs: Draw) -> None:
    seen: list[float] = []
    chosen = SegmentSettings(device="cpu", precision="exact", tile=64, diameter=20)
    bright.predict(discs((200, 60), 12)[0], chosen, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] <= 1


def test_a_tile_that_is_too_small_is_told(bright: Model, discs: Draw) -> None:
    with pytest.raises(AbbeError, match="tile of 32 px leaves nothing beside the halo .* choose --tile"):
        bright.predict(discs()[0], SegmentSettings(device="cpu", precision="exact", tile=32))


def test_tiles_are_refused_to_a_network_that_needs_the_whole_image() -> None:
    """NAFNet's means are over all of it; with windows (TLC) it takes tiles."""
    for local in (None, 16):
        config = dataclasses.asdict(dataclasses.replace(VARIANTS["nafnet_tiny"], local=local, in_channels=1))
        description = Description("tiny", "nafnet_tiny", config=config, objective="restoration")
        model = Model(build_method(description), description)
        assert model.tile(RestoreSettings(device="cpu")) == (1280, 1280)
        if local:
            assert model.tile(RestoreSettings(tile=64)) == (64, 64)
        else:
            with pytest.raises(AbbeError, match=r"^--tile 64: model 'tiny' needs the whole image.*--network.local"):
                restore(np.zeros((80, 80), np.uint8), model, tile=64)


def test_an_error_in_the_middle_leaves_no_thread(bright: Model, plain: SegmentSettings) -> None:
    class Torn:
        """Cannot be read below row 100."""

        shape, dtype = (400, 60), np.dtype(np.uint8)
        calls = 0

        def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
            rows, columns = region[-2:]
            Torn.calls += 1
            if Torn.calls > 4 and rows.stop > 100:
                raise OSError("the disk is gone")
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        bright.predict(Torn(), dataclasses.replace(plain, tile=64, diameter=20))
    assert threading.active_count() == before


# ------------------------------------------------------------------------------------------------ files


def test_a_path_an_image_and_an_array_are_the_same(
    bright: Model, plain: SegmentSettings, discs: Draw, tmp_path: Path
) -> None:
    image, expected = discs()
    tifffile.imwrite(tmp_path / "a.tif", image)
    for source in (tmp_path / "a.tif", str(tmp_path / "a.tif"), read(tmp_path / "a.tif"), image):
        assert np.array_equal(bright.predict(source, plain).labels, expected)


def test_save_writes_what_the_command_line_writes(
    bright: Model, plain: SegmentSettings, discs: Draw, tmp_path: Path
) -> None:
    image, expected = discs()
    folder = bright.predict(image, plain).save(tmp_path / "out")
    (mask,) = folder.glob("*_labels.tif")
    assert np.array_equal(tifffile.imread(mask), expected)
    assert len(pd.read_csv(folder / "objects.csv")) == expected.max()
    assert pd.read_csv(folder / "images.csv")["count"].tolist() == [expected.max()]
    assert {path.name for path in folder.glob("*.[hj]*")} == {"report.html", "provenance.json"}
    assert bright.predict(image, plain).save(tmp_path / "out") == folder  # again, over the first


@pytest.mark.parametrize("name", ["a.b.tif", ".hidden.tif", "größe 1.ome.tif"])
def test_save_keeps_within_its_folder_whatever_the_name(
    bright: Model, plain: SegmentSettings, discs: Draw, tmp_path: Path, name: str
) -> None:
    tifffile.imwrite(tmp_path / name, discs()[0])
    out = bright.predict(tmp_path / name, plain).save(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}
    assert len(list(out.glob("*_labels.tif"))) == 1


def test_loading_gives_the_same_model(bright: Model, bright_file: Path) -> None:
    again = load_model(bright_file)
    assert again.name == "bright"
    assert again.sha256 == bright.sha256 != ""
    assert again.identity(SegmentSettings()) == bright.identity(SegmentSettings())
    assert again.identity(SegmentSettings(min_area=3)) != bright.identity(SegmentSettings())
    assert again.record()["network"] == "unet_residual_tiny"


def test_a_description_that_does_not_fit_its_tensors_is_told(bright_file: Path, tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        r"does not fit InstanceSegmentation; missing: network\.down\.1": {"network": "unet_residual", "config": {}},
        "no network is called 'unet_residul'; did you mean 'unet_residual'": {"network": "unet_residul"},
        "no objective is called 'tracking'": {"objective": "tracking"},
        "no setting named 'wdths'; did you mean 'widths'": {"config": {"wdths": [8]}},
        "no setting named 'prominance'; did you mean 'prominence'": {"options": {"prominance": 1}},
    }
    for words, changes in cases.items():
        with pytest.raises(AbbeError, match=words):
            load_model(resaved(bright_file, tmp_path / "other.safetensors", **changes))


@pytest.mark.parametrize("network", ["unet_2015_tiny", "unet_falk_2d_tiny"])
def test_the_networks_of_the_papers_segment_too(network: str, discs: Draw, plain: SegmentSettings) -> None:
    """With random weights: any labels, of the image's shape, tiled or not."""
    torch.manual_seed(0)
    pixel_size = (0.5, 0.5) if "falk" in network else None
    description = Description(network, network, pixel_size=pixel_size)
    model = Model(model_module.build_method(description), description)
    image, _ = discs((60, 200))
    whole = model.predict(image, dataclasses.replace(plain, pixel_size=0.5))
    tiled = model.predict(image, dataclasses.replace(plain, pixel_size=0.5, tile=256))
    assert whole.labels.shape == image.shape
    assert np.array_equal(tiled.labels > 0, whole.labels > 0)


# ------------------------------------------------------------------------------------------------ the canvas


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_dropping_the_border_leaves_the_inner_objects(height: int, width: int, seed: int) -> None:
    labels, _ = ndimage.label(np.random.default_rng(seed).random((height, width)) > 0.6)
    canvas, numbering = Canvas((height, width)), Numbering((height, width), drop_border=True)
    half = int(labels.max()) // 2
    for some in (np.where(labels <= half, labels, 0), np.where(labels > half, labels, 0)):
        for one in numbering.renumber([Finished(((0, height), (0, width)), some.astype(np.int32))]):
            canvas.add(one)
    edge = np.ones((height, width), bool)
    edge[1:-1, 1:-1] = False
    kept = [label for label in range(1, labels.max() + 1) if not edge[labels == label].any()]
    expected = sum((np.where(labels == label, i, 0) for i, label in enumerate(kept, 1)), np.zeros_like(labels))
    assert np.array_equal(canvas.finish(), expected)


# ------------------------------------------------------------------------------------------------ sequences


def test_an_encoder_of_sequences_says_how_it_is_used(tmp_path: Path) -> None:
    config = roformer.VARIANTS["roformer_tiny"]
    theirs = TRANSFORMERS.to_theirs(roformer.build(config).state_dict(), dataclasses.asdict(config))
    torch.save(theirs, tmp_path / "theirs.pth")
    stored = abbe.convert(tmp_path / "theirs.pth", tmp_path / "words.safetensors", "roformer_tiny")
    use = rf'in Python, abbe\.load\("{stored}"\)\.method\.network reads tokens \(B, N\)$'
    image = np.zeros((32, 32), np.uint8)
    for verb in (abbe.segment, abbe.classify, abbe.embed):
        with pytest.raises(AbbeError, match=f"model 'words' reads sequences and no images; {use}"):
            verb(image, stored)
    with pytest.raises(AbbeError, match=f"model 'words' translates nothing; {use}"):
        translate(["1+2"], stored)
    tokens = torch.tensor([[3, 4, 5]])
    assert abbe.load(stored).method.network(tokens).shape == (1, 3, config.vocabulary)  # type: ignore[attr-defined]
