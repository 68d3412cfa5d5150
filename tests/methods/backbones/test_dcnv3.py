"""Properties of the operator: its definition in loops, the forms that compute it, and what its points can reach."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from abbe.methods.backbones import dcnv3 as file
from abbe.methods.backbones.dcnv3 import DCNv3, Window, dcnv3, has_triton, sampled

WINDOWS = st.builds(
    Window,
    groups=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    offset_scale=st.sampled_from([0.5, 1.0, 2.0]),
    remove_center=st.booleans(),
).filter(lambda window: window.points > 0)
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def draw(window: Window, batch: int = 1, rows: int = 5, columns: int = 6, width: int = 2, seed: int = 0) -> Inputs:
    """Values, offsets that go beyond the image, weights; in float64."""
    generator = torch.Generator().manual_seed(seed)
    least = window.dilation * (window.kernel - 1) + 1 - 2 * window.padding
    rows, columns = max(rows, least), max(columns, least)
    outputs = (batch, window.extent(rows), window.extent(columns), window.groups * window.points)
    shapes = (batch, rows, columns, window.groups * width), (*outputs[:3], 2 * outputs[3]), outputs
    x, offset, mask = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, 3 * offset, mask


def by_definition(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> torch.Tensor:
    """Eq. 2 in loops, over padded values as the official operator has them."""
    x = F.pad(x, (0, 0, *[window.padding] * 4))
    rows, columns, channels = x.shape[1:]
    width, half = channels // window.groups, window.dilation * (window.kernel - 1) // 2
    points = [(kx, ky) for kx in range(window.kernel) for ky in range(window.kernel)]  # one column after the other
    if window.remove_center:
        points.remove((window.kernel // 2, window.kernel // 2))
    out = x.new_zeros(*offset.shape[:3], channels)
    for b, i, j, g in torch.cartesian_prod(*(torch.arange(n) for n in (*offset.shape[:3], window.groups))).tolist():
        for number, (kx, ky) in enumerate(points):
            at = g * len(points) + number
            move_x, move_y = offset[b, i, j, 2 * at : 2 * at + 2].tolist()
            place_x = j * window.stride + half + (kx * window.dilation - half + move_x) * window.offset_scale
            place_y = i * window.stride + half + (ky * window.dilation - half + move_y) * window.offset_scale
            for row in (math.floor(place_y), math.floor(place_y) + 1):
                for column in (math.floor(place_x), math.floor(place_x) + 1):
                    if 0 <= row < rows and 0 <= column < columns:
                        share = (1 - abs(place_y - row)) * (1 - abs(place_x - column)) * mask[b, i, j, at]
                        span = slice(g * width, (g + 1) * width)
                        out[b, i, j, span] += share * x[b, row, column, span]
    return out


@settings(deadline=None, max_examples=20)
@given(window=WINDOWS, seed=st.integers(0, 1000))
def test_all_forms_are_the_definition(window: Window, seed: int) -> None:
    inputs = draw(window, rows=4, columns=3, seed=seed)
    expected = by_definition(*inputs, window)
    torch.testing.assert_close(sampled(*inputs, window), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dcnv3(*inputs, window), expected, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(window=WINDOWS, seed=st.integers(0, 1000), batch=st.integers(1, 3))
def test_all_forms_have_the_same_gradients(window: Window, seed: int, batch: int) -> None:
    inputs = draw(window, batch, seed=seed)
    ways = []
    for form in (sampled, dcnv3):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = form(*leaves, window)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out))
        ways.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-9, atol=1e-9)


def test_the_gradients_are_those_of_the_function() -> None:
    window = Window(groups=2, remove_center=True)
    leaves = [tensor.requires_grad_() for tensor in draw(window, 2, 3, 3)]
    assert torch.autograd.gradcheck(lambda *inputs: dcnv3(*inputs, window), leaves, fast_mode=True)


def test_a_large_batch_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(groups=3)
    leaves = [tensor.requires_grad_() for tensor in draw(window, 5)]
    found = []
    for number in (1, 2 * leaves[2][0].numel(), 10**9):  # one image at a time, two, all
        monkeypatch.setattr(file, "IN_CACHE", number)
        out = dcnv3(*leaves, window)
        found.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves)))
    for some in found[1:]:
        torch.testing.assert_close(some, found[0], rtol=1e-12, atol=1e-12)


def test_points_are_numbered_down_the_columns() -> None:
    """The second point of nine is left of the middle, not above it."""
    window = Window(groups=1)
    x = torch.arange(25.0).view(1, 5, 5, 1)
    mask = torch.zeros(1, 5, 5, 9)
    mask[..., 1] = 1
    out = dcnv3(x, torch.zeros(1, 5, 5, 18), mask, window)
    assert torch.equal(out[0, :, 1:, 0], x[0, :, :-1, 0])
    mask = torch.zeros(1, 5, 5, 8)
    mask[..., 4] = 1  # without the centre, the fifth is right below it
    out = dcnv3(x, torch.zeros(1, 5, 5, 16), mask, Window(groups=1, remove_center=True))
    assert torch.equal(out[0, :-1, :, 0], x[0, 1:, :, 0])


def test_an_offset_is_x_then_y() -> None:
    x, offset = torch.arange(30.0).view(1, 5, 6, 1), torch.zeros(1, 5, 6, 2)
    offset[..., 0] = 1
    window = Window(groups=1, kernel=1, padding=0)
    out = dcnv3(x, offset, torch.ones(1, 5, 6, 1), window)
    assert torch.equal(out[0, :, :-1], x[0, :, 1:])


def test_without_offsets_it_is_a_convolution() -> None:
    window = Window(groups=2, stride=2, dilation=2, padding=2)
    x, offset, _ = draw(window, 2, 9, 8)
    weight = torch.rand(9, dtype=torch.float64)
    out = dcnv3(x, offset.zero_(), weight.expand(*offset.shape[:3], 2, 9).flatten(-2), window)
    kernel = weight.view(3, 3).T.expand(4, 1, 3, 3)
    expected = F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=2, padding=2, dilation=2, groups=4)
    torch.testing.assert_close(out.permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("distance", [7.0, 1e6, 1e20])
def test_outside_of_the_image_is_zero(distance: float) -> None:
    window = Window(groups=1, kernel=1, padding=0)
    for sign in (-1, 1):
        x, offset, mask = draw(window)
        out = dcnv3(x, torch.full_like(offset, sign * distance), mask, window)
        assert bool((out == 0).all())


def test_half_precision_keeps_its_type_and_float32_its_places() -> None:
    window = Window(groups=2)
    inputs = [tensor.float() for tensor in draw(window, width=4)]
    leaves = [tensor.bfloat16().requires_grad_() for tensor in inputs]
    out = dcnv3(*leaves, window)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.bfloat16 for leaf in leaves)
    exact = dcnv3(*(leaf.detach().float() for leaf in leaves), window)
    torch.testing.assert_close(out.float(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_traced_and_compiled_it_is_the_same() -> None:
    window = Window(groups=2, remove_center=True)
    inputs = tuple(tensor.float() for tensor in draw(window, 2))
    expected = dcnv3(*inputs, window)
    compiled = torch.compile(lambda *some: dcnv3(*some, window), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), expected, rtol=1e-4, atol=1e-5)
    traced = torch.jit.trace(lambda *some: dcnv3(*some, window), inputs)
    torch.testing.assert_close(traced(*inputs), expected, rtol=1e-4, atol=1e-5)


def test_wrong_extents_are_told() -> None:
    window = Window(groups=2)
    x, offset, mask = draw(window)
    with pytest.raises(ValueError, match=r"expected \(1, 5, 6, 36\) and \(1, 5, 6, 18\)"):
        dcnv3(x, offset[:, 1:], mask, window)
    with pytest.raises(ValueError, match="no centre"):
        Window(kernel=4, remove_center=True)
    with pytest.raises(ValueError, match="10 channels in 4 groups"):
        DCNv3(10, Window(groups=4))


def test_a_new_layer_averages_its_window() -> None:
    layer = DCNv3(8, Window(groups=2), center_feature_scale=True)
    x = torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    values = layer.input_projection(x).permute(0, 3, 1, 2)
    mixed = (F.avg_pool2d(values, 3, stride=1, padding=1) + values) / 2
    torch.testing.assert_close(layer(x), layer.output_projection(mixed.permute(0, 2, 3, 1)), rtol=1e-4, atol=1e-5)


TRITON = """
import torch
from abbe.methods.backbones.dcnv3 import Window, sampled
from abbe.methods.backbones.dcnv3_triton import Fused

torch.manual_seed(0)
for window in (Window(groups=2), Window(3, stride=2, padding=2, dilation=2, offset_scale=2.0, remove_center=True)):
    outputs = (2, window.extent(6), window.extent(5), window.groups * window.points)
    offset = 3 * torch.randn(*outputs[:3], 2 * outputs[3])
    offset[0, 0, 0] = 1e9
    inputs = torch.randn(2, 6, 5, 5 * window.groups), offset, torch.randn(outputs)
    ways = []
    for form in (sampled, Fused.apply):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = form(*leaves, window)
        ways.append((out.detach(), *torch.autograd.grad(out.square().sum(), leaves)))
    torch.testing.assert_close(ways[1], ways[0], rtol=1e-4, atol=1e-4)
print("equal")
"""


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_the_kernels_for_gpus_are_the_same_in_their_interpreter() -> None:
    """Interpreted on the processor, which shows what they compute and not that a GPU takes them."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() == "equal", ran.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_the_same(dtype: torch.dtype) -> None:
    window = Window(groups=4, remove_center=True)
    ways = []
    for device in ("cpu", "cuda"):
        leaves = [tensor.to(device, dtype).requires_grad_() for tensor in draw(window, 2, 14, 13, 16)]
        out = dcnv3(*leaves, window)
        ways.append([tensor.cpu() for tensor in (out.detach(), *torch.autograd.grad(out.square().sum(), leaves))])
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(ways[1], ways[0], rtol=tolerance, atol=tolerance * 10)
