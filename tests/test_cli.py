"""The command line as people type it: results, sentences and exit codes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from cyclopts.help import InlineText
from rich.text import Text

from abbe import batch as batch_module
from abbe.cli import main as cli
from abbe.cli.help import joined
from abbe.cli.training import pair_up
from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.write import write_png
from abbe.data.write_zarr import write_image_zarr
from abbe.methods.backbones.resnet import VARIANTS, build
from abbe.methods.catalog import ENTRIES
from abbe.model import Model
from abbe.weights.file import read_model, save_model
from abbe.weights.tables.resnet import LAYOUTS

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: Any) -> Ran:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in printed.err
        return Ran(int(code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def segment(run: Callable[..., Ran], bright_file: Path, tmp_path: Path) -> Callable[..., Ran]:
    """`abbe segment` with the model of bright discs, into out/."""

    def call(*words: Any, model: Path | str = bright_file, out: Path | str = tmp_path / "out") -> Ran:
        return run("segment", *words, "--model", model, "--out", out, "--device", "cpu", "--precision", "exact")

    return call


@pytest.fixture
def short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out where something else is tested; drawing it is the slowest part of a small run."""
    monkeypatch.setattr(batch_module, "write_report", lambda path, **_: None)


def a_plate(folder: Path, discs: Draw, number: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        tifffile.imwrite(folder / f"{i}.tif", discs(number=3 + i, seed=i)[0])
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".abbe" not in path.parts and path.is_file()}


# ------------------------------------------------------------------------------------------------ results


def test_a_folder_of_images_becomes_masks_tables_and_a_report(
    segment: Callable[..., Ran], discs: Draw, tmp_path: Path
) -> None:
    ran = segment(a_plate(tmp_path / "plate", discs), "--rois")
    counts = [int(discs(number=3 + i, seed=i)[1].max()) for i in range(3)]
    assert ran.code == 0
    assert f"{sum(counts)} objects in 3 images: " in ran.out
    assert "[3/3]" in ran.err
    per_image = ("{}_labels.tif", "{}_overlay.png", "{}_rois.zip", "{}.geojson")
    tables = {"images.csv", "objects.csv", "report.html", "provenance.json"}
    assert names(tmp_path / "out") == tables | {end.format(i) for i in range(3) for end in per_image}
    assert pd.read_csv(tmp_path / "out" / "images.csv")["count"].tolist() == counts
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_zarrs_of_folders_and_addresses_become_zarrs_and_are_measured_again(
    run: Callable[..., Ran],
    segment: Callable[..., Ran],
    discs: Draw,
    same_objects: Callable[..., bool],
    tmp_path: Path,
    short_report: None,
) -> None:
    image, truth = discs()
    folder = write_image_zarr(tmp_path / "plate" / "a.ome.zarr", Image(image, "YX", {"y": 0.5, "x": 0.5}))
    address = f"memory://{tmp_path.name}/b.ome.zarr"
    fsspec.filesystem("memory").put(str(folder), address, recursive=True)
    assert segment(folder.parent, address).code == 0
    assert segment(folder.parent, address).err.count("done already") == 2
    for name in ("a", "b"):
        assert same_objects(read(tmp_path / "out" / f"{name}_labels.ome.zarr").data[...], truth)
    measured = run("measure", folder, "--labels", tmp_path / "out", "--out", tmp_path / "measured")
    assert measured.code == 0
    assert pd.read_csv(tmp_path / "measured" / "images.csv")["count"].item() == truth.max()
    assert segment(folder, "--format", "tiff", out=tmp_path / "tiff").code == 0
    assert same_objects(tifffile.imread(tmp_path / "tiff" / "a_labels.tif"), truth)
    assert "OME-Zarr 0.5" in run("info", address).out


def test_the_default_path_finds_the_same(
    run: Callable[..., Ran], bright_file: Path, discs: Draw, tmp_path: Path, short_report: None
) -> None:
    plate = a_plate(tmp_path / "plate", discs, 1)
    assert run("segment", plate, "--model", bright_file, "--out", tmp_path / "out", "--tile", "96").code == 0
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "0_labels.tif"), discs(number=3, seed=0)[1])


def test_options_reach_the_result(segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None) -> None:
    image, labels = discs((120, 120), 12, 3)
    stack = np.zeros((2, 3, *image.shape), np.uint16)
    stack[1, 2] = image
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    ran = segment(tmp_path / "a.tif", "--z", 1, "--channel", 2, "--drop-border", "--min-area", 100, "--pixel-size", 0.5)
    assert ran.code == 0
    found = tifffile.imread(tmp_path / "out" / "a_labels.tif")
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    areas = np.bincount(labels.ravel())
    kept = [label for label in range(1, labels.max() + 1) if areas[label] >= 100 and label not in edge]
    assert np.array_equal(found > 0, np.isin(labels, kept))
    assert read(tmp_path / "out" / "a_labels.tif").pixel_size == pytest.approx({"y": 0.5, "x": 0.5})


def test_equal_stems_in_two_folders_stay_apart(
    segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None
) -> None:
    plates = [a_plate(tmp_path / name, discs, number) for name, number in (("plate 1", 1), ("plate 2", 2))]
    assert segment(plates[0], plates[1] / "*.tif").code == 0
    masks = {name for name in names(tmp_path / "out") if name.endswith("_labels.tif")}
    assert masks == {"plate 1/0_labels.tif", "plate 2/0_labels.tif", "plate 2/1_labels.tif"}


def test_unicode_and_spaces(segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None) -> None:
    folder = tmp_path / "Zürich – Größe µ"
    folder.mkdir()
    tifffile.imwrite(folder / "細胞 [1].tif", discs()[0])
    assert segment(folder, out=tmp_path / "Ergebnis µ").code == 0
    assert segment(folder / "細胞 [1].tif", out=tmp_path / "single").code == 0
    assert "細胞 [1]_labels.tif" in names(tmp_path / "Ergebnis µ") & names(tmp_path / "single")


# ------------------------------------------------------------------------------------------------ bad input


def test_inputs_that_lead_to_nothing(segment: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "empty": "no images in this folder; looked for files ending in",
        tmp_path / "*.tif": "nothing matches; looked for files ending in",
        tmp_path / "missing.tif": "no such file or folder",
    }
    for given, words in cases.items():
        ran = segment(given)
        assert ran.code == 2
        assert ran.err.startswith(f"abbe: {given}: {words}")
        assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_batch_goes_on_past_every_kind_of_bad_file(
    segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None
) -> None:
    folder = a_plate(tmp_path / "plate", discs, 2)
    whole = (folder / "0.tif").read_bytes()
    bad: dict[str, tuple[bytes, str]] = {
        "empty.tif": (b"", "is empty (0 bytes)"),
        "cut.tif": (whole[: len(whole) // 2], "cut off"),
        "stub.tif": (whole[:12], "cut off"),
        "text.png": (b"this is no image", "is not an image that Abbe reads"),
        "broken.jpg": (b"\xff\xd8\xff\xe0 broken", ""),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    tifffile.imwrite(folder / "stack.ome.tif", np.zeros((2, 3, 4, 20, 20), np.uint8), metadata={"axes": "TZCYX"})
    tifffile.imwrite(folder / "many.tif", np.zeros((300, 20, 20), np.uint8), metadata={"axes": "CYX"})
    np.save(folder / "complex.npy", np.zeros((5, 5), complex))
    ran = segment(folder)
    assert ran.code == 1
    assert "objects in 2 images" in ran.out
    assert "8 failed:" in ran.err
    told = ran.err.split("8 failed:")[1].strip().splitlines()
    for name in (*bad, "stack.ome.tif", "many.tif", "complex.npy"):
        (line,) = (line for line in told if name in line)
        assert bad.get(name, (b"", ""))[1] in line
    assert "choose with --time 0..1 and --z 0..2" in ran.err
    assert "300 channels, but the model takes 1 or 3" in ran.err
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 2


def test_nothing_but_failures_is_exit_code_two(segment: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    ran = segment(tmp_path / "a.tif")
    assert ran.code == 2
    assert "1 failed:" in ran.err


def test_odd_images_are_images(segment: Callable[..., Ran], tmp_path: Path, short_report: None) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    spoilt = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    spoilt[3, 3], spoilt[4, 4] = np.nan, np.inf
    images: dict[str, np.ndarray] = {
        "one": np.full((1, 1), 7, np.uint8),
        "line": np.arange(6000, dtype=np.uint16).reshape(3, 2000),
        "constant": np.full((40, 40), 9, np.uint16),
        "spoilt": spoilt,
        "nan": np.full((10, 10), np.nan, np.float32),
        "bool": np.eye(20, dtype=bool),
    }
    for name, image in images.items():
        tifffile.imwrite(folder / f"{name}.tif", image)
    write_png(folder / "colour.png", np.full((20, 30, 3), 100, np.uint8))
    assert segment(folder).code == 0
    counts = pd.read_csv(tmp_path / "out" / "images.csv", keep_default_na=False).set_index("image")
    assert set(counts.index) == {*images, "colour"}
    assert counts.loc[["one", "constant", "nan", "colour"], "count"].tolist() == [0] * 4


def test_places_that_cannot_be_written(segment: Callable[..., Ran], discs: Draw, tmp_path: Path) -> None:
    plate = a_plate(tmp_path / "plate", discs, 1)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        ran = segment(plate, out=out)
        assert ran.code == 2
        assert ran.err.startswith(f"abbe: {out}: ")
        assert "--out" in ran.err


def test_models_that_cannot_be_used(
    segment: Callable[..., Ran], bright_file: Path, discs: Draw, tmp_path: Path
) -> None:
    plate = a_plate(tmp_path / "plate", discs, 1)
    tensors, description = read_model(bright_file)
    cut, pickled, empty, other = (tmp_path / f"{name}.safetensors" for name in ("cut", "pickled", "empty", "other"))
    cut.write_bytes(bright_file.read_bytes()[:5000])
    pickled.write_bytes(pickle.dumps({"a": 1}))
    empty.touch()
    description.network = "unet_2015_tiny"
    description.config, description.objective, description.options = {}, "", {}
    save_model(other, tensors, description)
    newer = tmp_path / "newer.safetensors"
    newer.write_bytes(bright_file.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    cases = {
        cut: "not a whole safetensors file",
        pickled: "a pickle, which can run code and is not opened",
        empty: "an empty file, not a model",
        other: "does not fit UNetSegmentation; missing: ",
        newer: "in model format 7, this version reads up to 1; pip install --upgrade abbe",
        "nucle": "neither a file nor a model that Abbe knows; did you mean 'nuclei'?",
    }
    for model, words in cases.items():
        ran = segment(plate, model=model)
        assert ran.code == 2
        assert ran.err.startswith(f"abbe: {model}: ")
        assert words in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("segment", "a.tif", "--modle", "x"), "--model"),
        (("segmnt", "a.tif"), "segment"),
        (("segment",), "IMAGES"),
        (("segment", "a.tif", "--device", "gpu"), "cuda"),
        (("segment", "a.tif", "--min-area", "many"), "many"),
        (("measure", "a.tif"), "--labels"),
    ],
)
def test_wrong_words_are_told_with_what_was_probably_meant(
    run: Callable[..., Ran], words: Sequence[str], told: str
) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert told in ran.err + ran.out


# ------------------------------------------------------------------------------------------------ again


def test_second_runs(segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None) -> None:
    plate = a_plate(tmp_path / "plate", discs, 2)
    assert segment(plate).code == 0
    before = (tmp_path / "out" / "objects.csv").read_bytes()
    again = segment(plate)
    assert again.code == 0
    assert "2 of them by an earlier run" in again.out
    assert again.err.count("done already") == 2
    assert (tmp_path / "out" / "objects.csv").read_bytes() == before
    other = segment(plate, "--min-area", 30)
    assert other.code == 2
    assert "holds results of another model or other options" in other.err
    assert segment(plate, "--min-area", 30, "--overwrite").code == 0


def test_ctrl_c_keeps_what_is_finished(
    segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plate = a_plate(tmp_path / "plate", discs)
    predict = Model.predict

    def stopped(self: Model, image: Any, *rest: Any, **options: Any) -> Any:
        if str(image).endswith("1.tif"):
            raise KeyboardInterrupt
        return predict(self, image, *rest, **options)

    monkeypatch.setattr(Model, "predict", stopped)
    ran = segment(plate)
    assert ran.code == 130
    assert "the same command goes on" in ran.err
    assert pd.read_csv(tmp_path / "out" / "images.csv")["image"].tolist() == [0]
    monkeypatch.setattr(Model, "predict", predict)
    again = segment(plate)
    assert again.code == 0
    assert "1 of them by an earlier run" in again.out
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 3


def test_ctrl_c_before_anything_began(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("abbe.folders.segment_files", stopped)
    ran = run("segment", "a.tif")
    assert (ran.code, ran.err) == (130, "stopped\n")


# ------------------------------------------------------------------------------------------------ other verbs


def test_measure_gives_the_table_of_segment(
    run: Callable[..., Ran], segment: Callable[..., Ran], discs: Draw, tmp_path: Path, short_report: None
) -> None:
    plate = a_plate(tmp_path / "plate", discs)
    segment(plate)
    assert run("measure", plate, "--labels", tmp_path / "out", "--out", tmp_path / "measured").code == 0
    tables = [pd.read_csv(tmp_path / name / "objects.csv") for name in ("out", "measured")]
    pd.testing.assert_frame_equal(*tables)


def test_info_models_recipes_and_show(run: Callable[..., Ran], bright_file: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.uint16))
    ran = run("info", tmp_path / "a.tif", "--model", bright_file, "--device", "cpu")
    assert ran.code == 0
    assert "uint16" in ran.out
    assert "20 x 30 px" in ran.out
    assert run("info", tmp_path / "missing.tif").code == 2
    assert "unet_2015" in run("models").out
    assert "nuclei" in run("recipes").out
    assert "arXiv:1505.04597" in run("show", "unet_2015").out
    assert run("show", "unet_2051").code == 2
    assert "unet_residual_tiny" in run("show", bright_file).out


def test_help_keeps_placeholders(run: Callable[..., Ran]) -> None:
    assert "<name>_restored.tif" in run("restore", "--help").out
    assert "<stem>_labels.tif" in run("measure", "--help").out


def test_help_flows(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that ends in the code where its margin is does not end there in a column."""
    monkeypatch.setenv("COLUMNS", "400")
    assert "hides the neighbours that share it." in run("restore", "--help").out
    assert joined(InlineText(Text("one\n    two\n\nthree"))).primary_renderable.plain == "one two\n\nthree"


def test_version_and_help(run: Callable[..., Ran]) -> None:
    assert run("--version").out.strip().split(".")[0].isdigit()
    for words in (["--help"], ["segment", "--help"], ["train", "--help"]):
        ran = run(*words)
        assert ran.code == 0
        assert "Usage: abbe" in ran.out


def test_train_evaluate_and_use(
    run: Callable[..., Ran], segment: Callable[..., Ran], tiny_recipe: Path, annotated: Path, tmp_path: Path
) -> None:
    """A few steps, then the same run goes on; the folder of the training is a model."""
    folder = tmp_path / "run"
    words = ["train", tiny_recipe, "--data", annotated, "--out", folder]
    first = run(*words, "--train.epochs", "1")
    assert first.code == 0
    assert f"use it: abbe segment IMAGES --model {folder}" in first.out
    refused = run(*words)
    assert refused.code == 2
    assert "--resume" in refused.err
    other = run(*words, "--resume", "--train.learning_rate=0.5")
    assert other.code == 2
    assert "train.learning_rate" in other.err
    assert run(*words, "--resume", "--train.epochs", "2").code == 0

    scored = run("evaluate", folder, "--data", annotated, "--out", tmp_path / "scores", "--device", "cpu")
    assert scored.code == 0
    assert "map50_90" in scored.out
    assert (tmp_path / "scores" / "scores.json").exists()
    assert segment(annotated / "test" / "images", model=folder).code == 0


def test_mistakes_in_a_training(run: Callable[..., Ran], tiny_recipe: Path, annotated: Path, tmp_path: Path) -> None:
    cases: dict[str, list[Any]] = {
        "no recipe named 'nucle'; did you mean 'nuclei'?": ["nucle"],
        "no setting named 'epoch'; did you mean 'epochs'?": [tiny_recipe, "--train.epoch", "3"],
        "expected a setting and its value": [tiny_recipe, "--train.epochs"],
        "[missing]: no such folder": [tiny_recipe, "--data", tmp_path / "[missing]"],
    }
    for told, words in cases.items():
        ran = run("train", *words, "--out", tmp_path / "run")
        assert ran.code == 2
        assert told in ran.err
    assert not (tmp_path / "run").exists()


def test_published_weights_are_listed_and_converted(run: Callable[..., Ran], tmp_path: Path) -> None:
    listed = run("models")
    networks = listed.out.split("\nnetworks")[1].split("\n\n")[0].splitlines()[1:]
    columns = {line.index(ENTRIES[line.split()[0]].title) for line in networks}
    assert len(columns) == 1  # however long a name is
    assert "resnet50-0676ba61.pth: resnet50, 25.6 M parameters; trained on ImageNet-1k; top-1 76.13 %" in listed.out
    network = build(VARIANTS["resnet_tiny"])
    torch.save(LAYOUTS[0].to_theirs(network.state_dict(), {}), tmp_path / "theirs.pth")
    words = ("convert", tmp_path / "theirs.pth", "--to", tmp_path / "mine.safetensors", "--network", "resnet_tiny")
    converted = run(*words)
    assert converted.code == 0
    assert "M parameters; 3 channels; 3 classes, whose names are not known" in converted.out
    assert "licence unknown" in converted.out
    assert read_model(tmp_path / "mine.safetensors")[1].network == "resnet_tiny"
    refused = run(*words, "--overwrite", "--in-channels", 0)
    assert refused.code == 2
    assert "in_channels is 0; expected 1 at least" in refused.err
    again = run(*words)
    assert again.code == 2
    assert "is there already; --overwrite replaces it" in again.err
    assert run(*words, "--overwrite", "--in-channels", 1, "--num-classes", 0).code == 0
    assert read_model(tmp_path / "mine.safetensors")[1].config["num_classes"] == 0


def test_export_says_what_it_wrote_and_refuses_the_rest(
    run: Callable[..., Ran], bright_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    words = ("export", bright_file, "--to", "openvino", "--out", tmp_path / "a.xml")
    ran = run(*words)
    assert ran.code == 0
    assert "foreground and depth of bright for images of extents" in ran.out
    assert run(*words).code == 2
    assert run(*words, "--overwrite").code == 0
    assert run("export", bright_file, "--to", "coreml").code == 2
    monkeypatch.setitem(sys.modules, "openvino", None)
    missing = run(*words, "--overwrite")
    assert missing.code == 2
    assert "pip install 'abbe[fast]'" in missing.err


def test_settings_are_spelled_with_hyphens_or_underscores() -> None:
    assert pair_up(["--start-from", "my-model", "--train.batch-size=4"]) == {
        "start_from": "my-model",
        "train.batch_size": "4",
    }
