"""Properties of key tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from abbe.errors import AbbeError
from abbe.weights.rename import HWIO, TRANSPOSED, Change, Layout, part, recognise

HEADS = Change(
    lambda t, config: t.reshape(t.shape[0], -1).T,
    lambda t, config: t.T.reshape(t.shape[1], config["heads"], -1),
)
LAYOUT = Layout(
    "theirs",
    (
        ("layer{stage+1}.{block}.conv{n}.weight", "stages.{stage}.{block}.conv{n}.weight"),
        ("layer{stage+1}.{block}.bn{n}.{LEAF}", "stages.{stage}.{block}.norm{n}.{LEAF}"),
        ("stem/kernel", "stem.weight", HWIO),
        ("head/kernel", "head.weight", TRANSPOSED),
        ("q{i-1}", "qkv{i}.weight", part(0, 3, HEADS)),
        ("k{i-1}", "qkv{i}.weight", part(1, 3, HEADS)),
        ("v{i-1}", "qkv{i}.weight", part(2, 3, HEADS)),
    ),
    dropped=("layer{s}.{b}.bn{n}.num_batches_tracked",),
)
CONFIG: dict[str, Any] = {"heads": 2}


def published() -> dict[str, torch.Tensor]:
    shapes = {
        "layer1.0.conv1.weight": (4, 3, 3, 3),
        "layer2.11.conv2.weight": (4, 4, 1, 1),
        "layer2.11.bn2.running_mean": (4,),
        "stem/kernel": (5, 6, 3, 8),
        "head/kernel": (8, 10),
        "q0": (8, 2, 4),
        "k0": (8, 2, 4),
        "v0": (8, 2, 4),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_names_and_shapes_go_there_and_back() -> None:
    theirs = published()
    ours = LAYOUT.to_ours(theirs | {"layer2.11.bn2.num_batches_tracked": torch.tensor(7)}, CONFIG, "a.pth")
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == {
        "stages.0.0.conv1.weight": (4, 3, 3, 3),
        "stages.1.11.conv2.weight": (4, 4, 1, 1),
        "stages.1.11.norm2.running_mean": (4,),
        "stem.weight": (8, 3, 5, 6),
        "head.weight": (10, 8),
        "qkv1.weight": (24, 8),
    }
    x = torch.randn(8)
    torch.testing.assert_close(
        ours["qkv1.weight"] @ x, torch.cat([theirs[n].flatten(1).T @ x for n in ("q0", "k0", "v0")])
    )
    back = LAYOUT.to_theirs(ours, CONFIG)
    assert back.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(back[name], tensor)


def test_what_fits_no_rule_is_named() -> None:
    with pytest.raises(AbbeError, match=r"a\.pth: not in the layout of theirs; unexpected: layer1\.0\.conv1\.bias"):
        LAYOUT.to_ours(published() | {"layer1.0.conv1.bias": torch.zeros(4)}, CONFIG, "a.pth")
    with pytest.raises(AbbeError, match="neck: the layout of theirs has no name for it"):
        LAYOUT.to_theirs({"neck": torch.zeros(1)}, CONFIG)


def test_a_part_that_is_missing_is_named() -> None:
    tensors = published()
    del tensors["k0"]
    with pytest.raises(AbbeError, match=r"a\.pth: lacks k0 in the layout of theirs"):
        LAYOUT.to_ours(tensors, CONFIG, "a.pth")


def test_our_tensors_are_called_as_theirs() -> None:
    assert LAYOUT.called("stages.1.11.norm2.running_mean") == "layer2.11.bn2.running_mean"
    assert LAYOUT.called("head.weight") == "head/kernel (here head.weight)"
    assert LAYOUT.called("qkv1.weight") == "q0 + k0 + v0 (here qkv1.weight)"
    assert LAYOUT.called("neck") == "neck"


def test_two_names_of_one_tensor_are_refused() -> None:
    layout = Layout("double", (("a", "x"), ("b", "x")))
    with pytest.raises(AbbeError, match="'x' twice .* as 'b'"):
        layout.to_ours({"a": torch.zeros(1), "b": torch.zeros(1)}, {}, "a.pth")


def test_a_field_that_comes_again_has_to_be_the_same() -> None:
    layout = Layout("twice", (("a{i}.b{i}", "c{i}"),))
    assert layout.strange(["a1.b1", "a1.b2"]) == ["a1.b2"]


def test_the_layout_is_recognised_by_its_keys() -> None:
    other = Layout("other", (("{WORD}.weight", "{WORD}.weight"),))
    assert recognise(list(published()), [other, LAYOUT], "a.pth") is LAYOUT
    assert recognise(["a.weight"], [LAYOUT, other], "a.pth") is other
    with pytest.raises(AbbeError, match=r"1 of 2 tensors .*\(theirs, other\); nearest is other, where unexpected: 7"):
        recognise(["a.weight", "7"], [LAYOUT, other], "a.pth")
