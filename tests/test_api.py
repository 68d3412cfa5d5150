"""Every verb as a function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

import abbe
from abbe.batch import Outputs
from abbe.errors import AbbeError
from abbe.folders import measure_files, segment_files
from abbe.methods.backbones.unet_residual import UNetResidual
from abbe.model import Model
from abbe.settings import SegmentSettings

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]
CPU = {"device": "cpu", "precision": "exact"}


def test_segment_takes_a_name_a_file_or_a_model(bright: Model, bright_file: Path, discs: Draw) -> None:
    image, expected = discs()
    for model in (bright, bright_file, str(bright_file)):
        assert np.array_equal(abbe.segment(image, model, **CPU).labels, expected)


def test_an_option_that_does_not_exist_gets_the_nearest(bright: Model) -> None:
    with pytest.raises(AbbeError, match="segment: no setting named 'min_aera'; did you mean 'min_area'"):
        abbe.segment(np.zeros((8, 8), np.uint8), bright, min_aera=3)
    with pytest.raises(AbbeError, match="device: expected one of auto, cpu, cuda, mps, found 'gpu'"):
        abbe.segment(np.zeros((8, 8), np.uint8), bright, device="gpu")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="neither a file nor a model that Abbe knows"):
        abbe.load(tmp_path / "missing.safetensors")


def test_the_bundled_model_loads() -> None:
    assert abbe.load().name == "nuclei"


def test_create_builds_networks_and_loads_weights_into_them(bright_file: Path, bright: Model) -> None:
    network = abbe.create("unet_residual_tiny", weights=bright_file)
    assert isinstance(network, UNetResidual)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), bright.method.network(x))
    assert abbe.create("unet_2015_tiny", in_channels=2).in_channels == 2


def test_create_tells_what_is_wrong(bright_file: Path) -> None:
    with pytest.raises(AbbeError, match="no network is called 'unet_2051'; did you mean 'unet_2015'"):
        abbe.create("unet_2051")
    with pytest.raises(AbbeError, match=r"no setting named 'in_chanels'; did you mean 'in_channels'"):
        abbe.create("unet_2015_tiny", in_chanels=2)
    with pytest.raises(AbbeError, match=r"bright\.safetensors: does not fit UNetResidual; of another shape"):
        abbe.create("unet_residual_tiny", weights=bright_file, in_channels=1)


def test_many_files_are_what_single_images_are(bright_file: Path, discs: Draw, tmp_path: Path) -> None:
    for i in range(3):
        tifffile.imwrite(tmp_path / f"{i}.tif", discs(seed=i)[0])
    told: list[str] = []
    parts: list[float] = []
    result = segment_files(
        [tmp_path / "*.tif"],
        Outputs(tmp_path / "out"),
        bright_file,
        SegmentSettings(device="cpu", precision="exact"),
        tell=told.append,
        progress=parts.append,
    )
    assert result.failures == []
    assert len(told) == 3
    assert 0 < max(parts) <= 1
    objects = pd.read_csv(tmp_path / "out" / "objects.csv", dtype={"image": str})
    for i in range(3):
        alone = abbe.segment(tmp_path / f"{i}.tif", bright_file, **CPU)
        assert np.array_equal(tifffile.imread(tmp_path / "out" / f"{i}_labels.tif"), alone.labels)
        together = objects[objects["image"] == str(i)].drop(columns="image").reset_index(drop=True)
        pd.testing.assert_frame_equal(together, alone.objects.drop(columns="image"), check_dtype=False)


@pytest.mark.parametrize(
    ("dtype", "label"), [("uint32", 2**31), ("uint64", 2**63 + 5), ("int64", 2**32 + 1), ("int16", -1)]
)
def test_labels_that_int32_does_not_hold_are_refused_not_wrapped(dtype: str, label: int) -> None:
    labels = np.zeros((9, 9), dtype)
    labels[2:5, 2:5] = label
    with pytest.raises(AbbeError, match=rf"labels from .*{abs(label)}.*; expected 0 for background and numbers up to"):
        abbe.measure(labels)


def test_measure_is_the_table_of_segment(bright: Model, discs: Draw, tmp_path: Path) -> None:
    image, labels = discs()
    expected = abbe.segment(image, bright, **CPU).objects
    pd.testing.assert_frame_equal(abbe.measure(labels, image), expected)
    tifffile.imwrite(tmp_path / "mask.tif", labels.astype(np.uint16))
    pd.testing.assert_frame_equal(abbe.measure(tmp_path / "mask.tif", image), expected)
    assert "mean_intensity" not in abbe.measure(labels)
    assert "area_um2" in abbe.measure(labels, image, pixel_size=0.5)


def test_measure_refuses_what_is_no_mask(discs: Draw) -> None:
    image, labels = discs()
    with pytest.raises(AbbeError, match="array: 95 × 112 pixels, but array has 96 × 112"):
        abbe.measure(labels[1:], image)
    with pytest.raises(AbbeError, match="float32, but a mask is one channel of whole numbers"):
        abbe.measure(labels.astype(np.float32), image)


def test_masks_of_a_folder_are_measured(discs: Draw, tmp_path: Path) -> None:
    endings = ["_labels.tif", "_mask.tif", ".tif"]
    for folder in ("images/sub", "masks/sub"):
        (tmp_path / folder).mkdir(parents=True)
    for i, ending in enumerate(endings):
        image, labels = discs(seed=i)
        tifffile.imwrite(tmp_path / "images" / "sub" / f"{i}.tif", image)
        tifffile.imwrite(tmp_path / "masks" / "sub" / f"{i}{ending}", labels.astype(np.uint8))
    tifffile.imwrite(tmp_path / "images" / "alone.tif", discs()[0])
    result = measure_files([tmp_path / "images"], tmp_path / "masks", Outputs(tmp_path / "out"))
    assert result.images["count"].tolist() == [discs(seed=i)[1].max() for i in range(3)]
    ((_, reason),) = result.failures
    assert "alone.tif: no mask in" in reason
    assert not list((tmp_path / "out").rglob("*_labels.tif"))


def test_info_says_what_would_be_done(bright_file: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 200, 300), np.uint16), imagej=True, metadata={"axes": "ZYX"})
    facts = abbe.info(tmp_path / "a.tif", bright_file, **CPU)
    assert (facts["axes"], facts["dtype"], facts["shape"]) == ("ZYX", "uint16", [5, 200, 300])
    assert "--z" in facts["plan"]
    facts = abbe.info(tmp_path / "a.tif", bright_file, z=2, tile=96, diameter=20, **CPU)
    assert "200 x 300 px at its own size, in 24 tiles of 96 x 96 on cpu in exact (torch)" in facts["plan"]


def test_the_door_knows_its_names_and_no_other() -> None:
    assert set(abbe.__all__) <= set(dir(abbe))
    assert all(callable(getattr(abbe, name)) for name in abbe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = abbe.segmnt


def test_settings_are_the_fields_that_change_labels(bright: Model) -> None:
    assert set(bright.identity(SegmentSettings())) - {"model", "sha256"} == {
        field.name for field in dataclasses.fields(SegmentSettings)
    }
