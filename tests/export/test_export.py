"""Models written for other engines: they compute what Abbe computes, or nothing is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abbe.api import export
from abbe.errors import AbbeError
from abbe.export import export as export_module
from abbe.export.export import FORMATS, Format
from abbe.export.onnx_file import OPSET, run_onnx
from abbe.export.openvino_file import run_openvino
from abbe.export.subject import find_subject
from abbe.export.verify import LIMIT, Run, simulate
from abbe.methods.backbones.classification import Classification, ClassificationOptions
from abbe.methods.backbones.resnet import VARIANTS, build
from abbe.model import Model
from abbe.weights.file import Description, save_model

ONNX_MISSING = "onnx, onnxruntime or onnxscript is not installed"
NETWORKS = {
    "alexnet_tiny": "logits",
    "resnet_tiny": "logits",
    "convnext_test_tiny": "logits",
    "internimage_micro": "logits",
    "vit_patch4_tiny": "logits",
    "vit_rope_tiny": "logits",
    "roformer_tiny": "logits",
    "unet_2015_tiny": "probabilities",
    "unet_3d_tiny": "foreground",
}
QUICK = {"resnet_tiny", "vit_rope_tiny", "roformer_tiny"}
"""Those that are tried every time; a conversion takes seconds."""
OF_ONE_SIZE = {"vit_patch4_tiny"}
"""Networks whose graph depends on the extents."""


@pytest.fixture
def onnx() -> Any:
    pytest.importorskip("onnxscript", reason=ONNX_MISSING)
    pytest.importorskip("onnxruntime", reason=ONNX_MISSING)
    return pytest.importorskip("onnx", reason=ONNX_MISSING)


@pytest.fixture
def classifier(randomised: Callable[..., Any], tmp_path: Path) -> Path:
    """A model file: three classes of squares of 40 pixels."""
    options = ClassificationOptions(classes=("round", "long", "torn"), size=40, temperature=2.0)
    method = Classification(randomised(build(VARIANTS["resnet_tiny"])), options)
    description = Description(
        name="shapes",
        network="resnet_tiny",
        config=asdict(VARIANTS["resnet_tiny"]),
        objective="classification",
        options=asdict(options),
        normalization={"kind": "percentile", "low": 1.0, "high": 99.8, "joint": True},
        licence="MIT; trained on nothing",
    )
    return save_model(tmp_path / "shapes.safetensors", method.state_dict(), description)


def saves(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------ onnx


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_onnx_computes_what_the_network_computes(name: str, onnx: Any, tmp_path: Path) -> None:
    written = export(name, "onnx", tmp_path / "a.onnx")
    assert written.difference <= LIMIT
    assert written.outputs[0] == NETWORKS[name]
    assert "random" in str(written)
    graph = onnx.load(written.path).graph
    dimensions = [dimension.dim_param for dimension in graph.input[0].type.tensor_type.shape.dim]
    assert dimensions[0] == "batch"
    assert [bool(dimension) for dimension in dimensions[-1:]] == [name not in OF_ONE_SIZE]
    assert saves(tmp_path) == ["a.onnx"]


def test_an_onnx_file_says_what_a_reader_needs(onnx: Any, bright: Model, bright_file: Path, tmp_path: Path) -> None:
    written = export(bright_file, "onnx", tmp_path / "bright.onnx")
    model = onnx.load(written.path)
    onnx.checker.check_model(model)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["abbe.licence"] == "CC0"
    assert json.loads(facts["abbe.normalization"])["high"] == 99.8
    assert json.loads(facts["abbe.geometry"]) == json.loads(json.dumps(asdict(bright.method.geometry)))
    assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET]
    assert [output.name for output in model.graph.output] == ["foreground", "depth"]


def test_a_classifier_is_written_with_its_temperature(onnx: Any, classifier: Path, tmp_path: Path) -> None:
    written = export(classifier, "onnx", tmp_path / "shapes.onnx")
    x = simulate(find_subject(classifier), 2, (40, 40)).ready
    probability, logit = run_onnx(written.path)(x)
    shares = np.exp(logit / 2.0)
    np.testing.assert_allclose(probability, shares / shares.sum(1, keepdims=True), rtol=1e-4)
    assert "images of 40 x 40 in batches of any number" in str(written)


# -------------------------------------------------------------------------------------------------- openvino


@pytest.mark.parametrize(
    "name",
    [
        *("unet_residual_tiny", "unet_3d_tiny", "vit_rope_tiny"),
        pytest.param("internimage_micro", marks=pytest.mark.slow),
    ],
)
def test_openvino_computes_what_the_network_computes(name: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    written = export(name, "openvino", tmp_path / "a.xml")
    assert written.difference <= LIMIT
    assert saves(tmp_path) == ["a.bin", "a.xml"]
    network = openvino.Core().read_model(written.path)
    assert [output.get_any_name() for output in network.outputs] == list(written.outputs)
    assert network.get_rt_info(["abbe", "network"]).value == name
    subject = find_subject(name)
    x = simulate(subject, 2, subject.extents).ready
    found = run_openvino(tmp_path / "a.xml", tmp_path / "a.bin")(x)
    np.testing.assert_allclose(found[0], subject.plain(x)[0], atol=1e-3)


# ------------------------------------------------------------------------------------------------ what fails


def test_what_differs_is_not_written(monkeypatch: pytest.MonkeyPatch, bright_file: Path, tmp_path: Path) -> None:
    def wrong(subject: Any, paths: Sequence[Path], free: bool) -> Run:
        paths[0].write_bytes(b"graph")
        return lambda x: [output + 1 for output in subject.plain(x)]

    monkeypatch.setitem(FORMATS, "onnx", Format((".onnx",), lambda: None, wrong, lambda: "nothing"))
    with pytest.raises(AbbeError, match="bright: as onnx it differs from the float32 forward"):
        export(bright_file, "onnx", tmp_path / "a.onnx")
    assert saves(tmp_path) == []


def test_pictures_get_one_size_where_only_that_is_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(subject: Any, paths: Sequence[Path], free: bool) -> Run:
        if free:
            raise RuntimeError("not with these layers")
        paths[0].write_bytes(b"graph")
        return subject.plain

    monkeypatch.setitem(FORMATS, "onnx", Format((".onnx",), lambda: None, write, lambda: "itself"))
    written = export("resnet_tiny", "onnx", tmp_path / "a.onnx")
    assert "images of 224 x 224 in batches of any number" in str(written)
    with pytest.raises(AbbeError, match="unet_2015_tiny: cannot be written as onnx .RuntimeError: not with these"):
        export("unet_2015_tiny", "onnx", tmp_path / "b.onnx")


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, RuntimeError("no such operator\nand much more")])
def test_nothing_is_left_where_an_export_ends_early(
    stopped: Any, monkeypatch: pytest.MonkeyPatch, bright_file: Path, tmp_path: Path
) -> None:
    def write(subject: Any, paths: Sequence[Path], free: bool) -> Run:
        for path in paths:
            path.write_bytes(b"half")
        raise stopped

    monkeypatch.setitem(FORMATS, "openvino", Format((".xml", ".bin"), lambda: None, write, lambda: "nothing"))
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises((KeyboardInterrupt, AbbeError)) as ended:
        export(bright_file, "openvino", tmp_path / "a.xml", overwrite=True)
    assert saves(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    if ended.type is AbbeError:
        assert str(ended.value) == "bright: cannot be written as openvino (RuntimeError: no such operator)"


@pytest.mark.parametrize("to", ["onnx", "openvino", "bioimageio"])
def test_missing_packages_are_told_before_any_work(to: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino" if to == "openvino" else "onnxruntime", None)
    monkeypatch.setattr(export_module, "find_subject", lambda model: pytest.fail("worked"))
    with pytest.raises(AbbeError, match=r"pip install 'abbe\[(export|fast)\]'"):
        export("nuclei", to, tmp_path / "a")


def test_an_existing_file_stays(monkeypatch: pytest.MonkeyPatch, bright_file: Path, tmp_path: Path) -> None:
    for name, chosen in list(FORMATS.items()):
        monkeypatch.setitem(
            FORMATS, name, Format(chosen.suffixes, lambda: None, lambda *_: pytest.fail("worked"), lambda: "")
        )
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(AbbeError, match=r"a\.bin: is there already; --overwrite replaces it"):
        export(bright_file, "openvino", tmp_path / "a.xml")
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_bad_requests_are_told(tmp_path: Path, bright_file: Path, onnx: Any) -> None:
    with pytest.raises(AbbeError, match="no format is called 'coreml'; choose onnx, openvino, bioimageio"):
        export(bright_file, "coreml", tmp_path / "a.onnx")
    with pytest.raises(AbbeError, match=r"a\.pb: the name of such a file ends in \.onnx; give --out .*a\.onnx"):
        export(bright_file, "onnx", tmp_path / "a.pb")
    with pytest.raises(AbbeError, match="transformer_tiny: cannot be exported, for it searches its answer token by"):
        export("transformer_tiny", "onnx", tmp_path / "a.onnx")
    with pytest.raises(AbbeError, match="neither a file nor a model that Abbe knows; did you mean 'nuclei'"):
        export("nuclie", "onnx", tmp_path / "a.onnx")
    assert saves(tmp_path) == []
