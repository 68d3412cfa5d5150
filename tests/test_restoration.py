"""Restoration as a user calls it: values, types and axes of what went in, tile by tile."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from torch import nn

from abbe import restoration
from abbe.api import evaluate, restore, segment
from abbe.batch import Outputs
from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.write import write_png
from abbe.data.write_zarr import write_image_zarr
from abbe.errors import AbbeError
from abbe.folders import restore_files
from abbe.methods.restoration.dncnn import VARIANTS, build
from abbe.methods.restoration.restore import Restoration
from abbe.model import Model
from abbe.restoration import Restorer, to_type
from abbe.restore_batch import planes
from abbe.settings import RestoreSettings
from abbe.weights.file import Description, save_model

DESCRIPTION = Description("clean", "dncnn_tiny", objective="restoration", normalization={"kind": "range"})


def model(network: nn.Module | None = None, normalization: str = "range", in_channels: int = 1) -> Model:
    method = Restoration(network or Same(in_channels)).eval()
    return Model(method, Description("same", "dncnn_tiny", normalization={"kind": normalization}))


class Same(nn.Module):
    multiple = 1

    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.in_channels = in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0


@pytest.mark.parametrize("normalization", ["range", "percentile", "zscore", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.uint32])
def test_values_and_types_come_back(normalization, dtype) -> None:
    generator = np.random.default_rng(0)
    image = (generator.random((37, 50)) * 250).astype(dtype)
    found = restore(image, model(normalization=normalization), precision="exact")
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(float), image, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("axes", "shape"), [("TYX", (3, 20, 30)), ("ZYX", (4, 20, 30)), ("CYX", (2, 20, 30)), ("TCZYX", (2, 2, 3, 20, 30))]
)
def test_all_axes_are_restored(axes, shape) -> None:
    image = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    found = Restorer(model()).restore(read(image, axes=axes), settings())
    assert found.axes == axes
    np.testing.assert_array_equal(found.pixels, image)
    for channel in range(found.series.image.n_channels):
        before, after = planes(found, channel)
        np.testing.assert_array_equal(before, after)
        if "C" in axes:
            assert (image[(slice(None),) * axes.index("C") + (channel,)] == before).all(axis=(-2, -1)).any()


@pytest.mark.parametrize(
    ("axes", "shape"), [("CZYX", (2, 3, 20, 24)), ("TCZYX", (2, 2, 3, 20, 24)), ("TCYX", (3, 2, 9, 8))]
)
def test_axes_keep_their_order_where_the_network_takes_the_channels_together(axes, shape) -> None:
    image = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    found = Restorer(model(in_channels=2)).restore(read(image, axes=axes), settings())
    assert found.axes == axes
    np.testing.assert_array_equal(found.pixels, image)
    middle = [found.series.image.sizes[axis] // 2 for axis in axes[:-2] if axis != "C"]
    for channel in range(2):
        before, after = planes(found, channel)
        np.testing.assert_array_equal(before, after)
        place = iter(middle)
        chosen = image[tuple(channel if axis == "C" else next(place) for axis in axes[:-2])]
        np.testing.assert_array_equal(before, chosen)


def test_a_plane_of_a_stack_is_restored_with_its_neighbours() -> None:
    class Mean(nn.Module):
        multiple, in_channels = (1, 1, 1), 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=2, keepdim=True).expand_as(x)

    stacks = Model(
        Restoration(Mean()).eval(), Description("mean", "noise2void_3d", axes="CZYX", normalization={"kind": "none"})
    )
    image = np.random.default_rng(0).integers(0, 60000, (5, 16, 20)).astype(np.float32)
    whole = Restorer(stacks).restore(read(image, axes="ZYX"), settings())
    found = Restorer(stacks).restore(read(image, axes="ZYX"), settings(z=3))
    assert (found.axes, found.series.image.axes) == ("YX", "YX")
    np.testing.assert_array_equal(found.pixels, whole.pixels[3])
    np.testing.assert_allclose(found.pixels, image.mean(axis=0), rtol=1e-4)
    with pytest.raises(AbbeError, match="5"):
        Restorer(stacks).restore(read(image, axes="ZYX"), settings(z=5))


def test_one_channel_of_a_model_of_several_is_refused() -> None:
    described = Description(
        "two", "dncnn_tiny", normalization={"kind": "fixed", "offset": (0.0, 0.0), "scale": (1.0, 1.0)}
    )
    two = Model(Restoration(Same(2)).eval(), described)
    image = np.zeros((2, 16, 16), np.float32)
    with pytest.raises(AbbeError, match="channel 1 of 2 channels, but model 'two' was made for 2 together"):
        restore(read(image, axes="CYX"), two, channel=1)
    with pytest.raises(AbbeError, match="1 channel, but model 'two'"):
        restore(image[0], two)


def test_values_are_cut_off_if_asked() -> None:
    image = np.random.default_rng(0).normal(100, 200, (40, 50)).astype(np.float32)
    found = restore(image, model(normalization="none"), clip=(0, 255), precision="exact")
    np.testing.assert_array_equal(found, image.clip(0, 255))
    with pytest.raises(AbbeError, match="smaller value first"):
        restore(image, model(), clip=(255, 0))


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_an_even_image_stays_as_it_is_whatever_the_model_makes_of_it(value) -> None:
    torch.manual_seed(0)
    described = Description("far", "dncnn_tiny", normalization={"kind": "fixed", "offset": (500.0,), "scale": (100.0,)})
    far = Model(Restoration(build(VARIANTS["dncnn_tiny"])).eval(), described)
    image = np.full((2, 40, 50), value, np.uint16)
    np.testing.assert_array_equal(restore(read(image, axes="ZYX"), far), image)


def test_settings_that_do_not_exist_are_told_with_the_nearest_one() -> None:
    with pytest.raises(AbbeError, match="no setting named 'minuets'.*minutes"):
        restore(np.zeros((9, 9)), minuets=1)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint64])
def test_types_that_ome_tiff_lacks_are_told_before_anything_is_learnt(tmp_path, dtype) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 999, (96, 96)).astype(dtype))
    with pytest.raises(AbbeError, match=r"cannot be written as OME-TIFF; add --dtype float32 or --format zarr"):
        restore_files([tmp_path / "a.tif"], Outputs(tmp_path / "out"))
    (tmp_path / "0.tif").write_bytes(b"no image")
    with pytest.raises(AbbeError, match="cannot be written as OME-TIFF"):
        restore_files([tmp_path / "0.tif", tmp_path / "a.tif"], Outputs(tmp_path / "out"))
    path = save_model(tmp_path / "m.safetensors", *tiny())
    (failure,) = restore_files([tmp_path / "a.tif"], Outputs(tmp_path / "out"), path).failures
    assert "cannot be written as OME-TIFF" in failure[1]
    for options in ({"format": "zarr"}, {}):
        chosen = RestoreSettings() if options else RestoreSettings(dtype="float32")
        assert not restore_files(
            [tmp_path / "a.tif"], Outputs(tmp_path / f"out{len(options)}", **options), path, chosen
        ).failures


def test_the_name_of_a_chosen_channel_is_kept(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 64, 80)).astype(np.uint16)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, ome=True, metadata=metadata)
    path = save_model(tmp_path / "m.safetensors", *tiny())
    restore_files([tmp_path / "a.ome.tif"], Outputs(tmp_path), path, RestoreSettings(channel="GFP"))
    assert read(tmp_path / "a_restored.tif").channels == ("GFP",)


@pytest.mark.parametrize(
    ("options", "objective", "expected"),
    [
        ({"kinds": ("gaussian",)}, "restoration", True),
        ({"kinds": ("gaussian", "camera")}, "restoration", True),
        ({"kinds": ("motion",)}, "restoration", False),
        ({"kinds": ()}, "restoration", False),
        ({"share": 0.015}, "noise2void", True),
    ],
)
def test_models_that_take_noise_away_alone_are_known(options, objective, expected) -> None:
    assert (
        restoration.denoises(Model(model().method, Description("a", "a", objective=objective, options=options)))
        is expected
    )


def settings(**given):
    return RestoreSettings(precision="exact", **given)


def test_colour_of_a_colour_network_and_of_a_grey_one() -> None:
    image = np.random.default_rng(0).integers(0, 255, (24, 31, 3)).astype(np.uint8)
    for in_channels in (1, 3):
        found = Restorer(model(in_channels=in_channels)).restore(image, settings())
        assert found.axes == "CYX"
        np.testing.assert_array_equal(found.pixels, image.transpose(2, 0, 1))


def test_tiles_equal_the_whole() -> None:
    torch.manual_seed(0)
    tiny = model(build(VARIANTS["dncnn_tiny"]))
    image = np.random.default_rng(0).random((150, 170), np.float32)
    whole = restore(image, tiny, precision="exact", tile=256)
    tiled = restore(image, tiny, precision="exact", tile=48)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_whole_numbers_are_held_within_their_type() -> None:
    np.testing.assert_array_equal(to_type(np.array([-3.0, 12.4, 300.0]), np.dtype(np.uint8)), [0, 12, 255])


@settings_of_hypothesis(deadline=None)
@given(
    name=st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]),
    kind=st.sampled_from([np.float32, np.float64]),
    number=st.floats(-2.0, 2.0),
)
def test_whole_numbers_of_any_type_never_wrap(name, kind, number) -> None:
    """``number`` is in parts of the largest; what a float cannot tell from the largest number is that."""
    ends = np.iinfo(name)
    value = kind(number * float(ends.max))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = int(to_type(np.array([value]), np.dtype(name))[0])
    assert found == min(max(round(float(value)), ends.min), ends.max)


@pytest.mark.parametrize("name", ["uint16", "int32", "uint32", "int64", "uint64"])
def test_the_largest_number_of_a_type_stays(name) -> None:
    """The float32 next to it is above it, for 32 bits and more."""
    ends = np.iinfo(name)
    found = to_type(np.array([ends.max, ends.min, np.inf, -np.inf, np.nan], np.float32), np.dtype(name))
    assert found.tolist() == [ends.max, ends.min, ends.max, ends.min, 0]


def test_sixteen_bits_survive_unasked() -> None:
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    np.testing.assert_array_equal(restore(image, model()), image)


def test_models_of_objects_are_refused() -> None:
    with pytest.raises(AbbeError, match="restores no images"):
        restore(np.zeros((8, 8), np.uint8), "nuclei")


def test_other_verbs_say_what_the_model_is_for(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", Restoration(build(VARIANTS["dncnn_tiny"])).state_dict(), DESCRIPTION)
    with pytest.raises(AbbeError, match="abbe restore"):
        segment(np.zeros((32, 32), np.uint8), tmp_path / "m.safetensors")
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "masks").mkdir()
    for folder in ("images", "masks"):
        tifffile.imwrite(tmp_path / "data" / folder / "a.tif", np.eye(32, dtype=np.uint8))
    with pytest.raises(AbbeError, match="abbe restore"):
        evaluate(tmp_path / "m.safetensors", tmp_path / "data")


def test_folder_of_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "m.safetensors", Restoration(build(VARIANTS["dncnn_tiny"])).state_dict(), DESCRIPTION)
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 3, 64, 80)).astype(np.uint16)
    metadata = {"axes": "CZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 1.0}
    tifffile.imwrite(folder / "a.ome.tif", pixels, ome=True, metadata=metadata | {"Channel": {"Name": ["DAPI", "GFP"]}})
    (folder / "b.tif").write_bytes(b"no image")
    lines: list[str] = []
    result = restore_files([folder], Outputs(tmp_path / "out"), tmp_path / "m.safetensors", tell=lines.append)
    assert len(result.failures) == 1
    restored = read(tmp_path / "out" / "a_restored.tif")
    assert (restored.axes, restored.shape, restored.dtype) == ("CZYX", (2, 3, 64, 80), np.uint16)
    assert restored.channels == ("DAPI", "GFP")
    assert restored.pixel_size == {"x": 0.2, "y": 0.2, "z": 1.0}
    assert "noise" in lines[0]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    again = restore_files([folder], Outputs(tmp_path / "out"), tmp_path / "m.safetensors")
    assert again.skipped == 1


def test_a_large_image_lies_in_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(restoration, "IN_MEMORY", 0)
    image = np.random.default_rng(0).integers(0, 60000, (3, 50, 60)).astype(np.uint16)
    found = Restorer(model()).restore(read(image, axes="ZYX"), settings(tile=32), work=tmp_path)
    assert isinstance(found.pixels, np.memmap)
    np.testing.assert_array_equal(found.pixels, image)
    told: list[float] = []
    Restorer(model()).restore(read(image, axes="ZYX"), settings(tile=32), progress=told.append)
    assert told[-1] == 1
    assert told == sorted(told)


def test_colours_stay_colours(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", image)
    path = save_model(tmp_path / "m.safetensors", *tiny())
    restore_files([tmp_path / "a.png"], Outputs(tmp_path / "out"), path)
    with tifffile.TiffFile(tmp_path / "out" / "a_restored.tif") as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
    found = read(tmp_path / "out" / "a_restored.tif")
    assert found.rgb
    assert found.n_channels == 3


def tiny():
    torch.manual_seed(0)
    method = Restoration(build(VARIANTS["dncnn_tiny"]))
    return method.state_dict(), DESCRIPTION


@pytest.mark.parametrize("format", ["tiff", "zarr"])
def test_the_time_between_frames_is_kept(tmp_path, format) -> None:
    image = np.random.default_rng(0).integers(0, 60000, (3, 40, 50)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, metadata={"axes": "TYX", "finterval": 2.5, "unit": "um"})
    restore_files(
        [tmp_path / "a.tif"], Outputs(tmp_path, format=format), save_model(tmp_path / "m.safetensors", *tiny())
    )
    found = read(tmp_path / f"a_restored.{'tif' if format == 'tiff' else 'ome.zarr'}")
    assert (found.axes, found.time_step) == ("TYX", 2.5)


def test_a_zarr_becomes_a_zarr(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 60000, (2, 3, 40, 50)).astype(np.uint16)
    write_image_zarr(tmp_path / "a.ome.zarr", Image(image, "CZYX", {"x": 0.2, "y": 0.2, "z": 1.0}, ("dna", "actin")))
    path = save_model(tmp_path / "m.safetensors", *tiny())
    restore_files([tmp_path / "a.ome.zarr"], Outputs(tmp_path / "out"), path)
    found = read(tmp_path / "out" / "a_restored.ome.zarr")
    assert (found.axes, found.shape, found.dtype) == ("CZYX", image.shape, image.dtype)
    assert found.pixel_size == {"x": 0.2, "y": 0.2, "z": 1.0}
    assert found.channels == ("dna", "actin")
    pixels = np.asarray(found.data[:])  # what replaces it removes it
    restore_files([tmp_path / "a.ome.zarr"], Outputs(tmp_path / "out", overwrite=True, format="tiff"), path)
    np.testing.assert_array_equal(read(tmp_path / "out" / "a_restored.tif").data[:], pixels)
    assert not (tmp_path / "out" / "a_restored.ome.zarr").exists()
