"""The roadmap's networks against the networks at its ends, and against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from abbe.methods.backbones import convnext, resnet
from abbe.reproduce.claims import ClaimSettings
from abbe.reproduce.convnext import (
    CONVNEXT_T,
    NEAR,
    RESNET_50,
    STEPS,
    Design,
    build,
    count,
    roadmap,
    run,
)


def parameters(network: nn.Module) -> list[int]:
    return sorted(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def designs() -> dict[str, Design]:
    return {step.name: design for step, design in roadmap()}


def test_the_start_is_resnet_50_and_the_end_is_convnext_t(designs: dict[str, Design]):
    with torch.device("meta"):
        start = resnet.build(resnet.VARIANTS["resnet50"])
        end = convnext.build(convnext.VARIANTS["convnext_tiny"])
        assert parameters(build(designs["ResNet-50"])) == parameters(start)
        assert parameters(build(designs["separate downsampling"])) == parameters(end)
    assert (sum(parameters(start)), sum(parameters(end))) == (RESNET_50, CONVNEXT_T)


@pytest.mark.parametrize("name", ["ResNet-50", "inverted bottleneck", "BN to LN", "separate downsampling"])
def test_a_network_of_the_way_runs(name: str, designs: dict[str, Design]):
    torch.manual_seed(0)
    small = replace(designs[name], width=8, depths=(1, 2, 1, 1))
    logits = build(small).eval()(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()


def test_a_step_changes_what_it_names_and_nothing_else(designs: dict[str, Design]):
    kept = [step for step in STEPS if step.is_adopted]
    assert designs[kept[-1].name] == replace(Design(), **{k: v for step in kept for k, v in step.changes.items()})
    assert designs["ReLU to GELU"].kernel == 7  # larger kernels are tried, and not kept


def test_larger_kernels_cost_what_their_weights_cost(designs: dict[str, Design]):
    """By hand: one more weight of a depthwise kernel is one multiply-add more for each output and channel."""
    widths, sides, depths = (96, 192, 384, 768), (56, 28, 14, 7), (3, 3, 9, 3)
    outputs = sum(width * side**2 * depth for width, side, depth in zip(widths, sides, depths))
    outputs -= sum(width // 2 * side**2 for width, side in zip(widths[1:], sides[1:]))  # halving blocks are narrower
    fine, coarse = (count(designs[f"kernel {kernel}"])[1] for kernel in (5, 7))
    assert coarse - fine == (7**2 - 5**2) * outputs


def test_activations_and_norms_cost_no_multiply_adds(designs: dict[str, Design]):
    names = ("kernel 7", "fewer activations", "fewer norms", "BN to LN")
    assert len({count(designs[name])[1] for name in names}) == 1


def test_the_claim_holds_with_the_papers_numbers():
    told: list[str] = []
    found = run(ClaimSettings(), told.append)
    assert found.holds
    assert len(told) == len(found.table) == len(STEPS)
    off = found.table[(found.table.ratio - 1).abs() >= NEAR]
    assert list(off.step) == ["BN to LN"]
    assert "BN to LN" in found.sentence
