"""NAFNet equals its paper, spandrel's port of the authors' code, and itself on tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import abbe
from abbe.errors import AbbeError
from abbe.methods.restoration.nafnet import VARIANTS, NAFNet, NAFNetConfig, build, psnr_loss
from abbe.nn.receptive_field import receptive_halo
from abbe.weights.load import load_strict
from abbe.weights.published import Published, weights_folder
from abbe.weights.rename import recognise
from abbe.weights.tables.nafnet import LAYOUTS, PUBLISHED

TINY = VARIANTS["nafnet_tiny"]
BOTH = ("nafnet_width32", "nafnet_width32_gopro")
Draw = Callable[..., Any]
Tensors = Mapping[str, torch.Tensor]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def forward_and_gradient(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = network(x)
    y.backward(noise(*y.shape, seed=1))
    assert x.grad is not None
    return [y.detach(), x.grad]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.fixture(scope="module")
def drawn(randomised: Draw) -> Callable[[NAFNetConfig], NAFNet]:
    """Build with random weights whose branches do not drown their shortcut in so many blocks."""

    def draw(config: NAFNetConfig) -> NAFNet:
        network = randomised(build(config))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith(("beta", "gamma")):
                    parameter.mul_(0.3)
                if name.endswith(("norm1.weight", "norm2.weight")):
                    parameter.add_(1)
        return network

    return draw


def described(tensors: Tensors, config: NAFNetConfig, x: torch.Tensor) -> torch.Tensor:
    """Compute the network from the paper's words, on tensors under the authors' names.

    SimpleGate is equation 4, simplified channel attention equation 6, channel attention equation 5; the block is figure
    3 with a skip connection around each half.
    """

    def conv(name: str, x: torch.Tensor, **options: Any) -> torch.Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), **options)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        weight, bias = (tensors[f"{name}.{leaf}"].view(1, -1, 1, 1) for leaf in ("weight", "bias"))
        return weight * centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt() + bias

    def gate(x: torch.Tensor) -> torch.Tensor:
        if config.activations:
            return x * 0.5 * (1 + torch.erf(x / 2**0.5))
        half = x.shape[1] // 2
        return x[:, :half] * x[:, half:]

    def attended(name: str, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        if config.activations:
            return x / (1 + (-conv(f"{name}.se.3", conv(f"{name}.se.1", means).clamp(min=0))).exp())
        return x * conv(f"{name}.sca.1", means)

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        y = conv(f"{name}.conv1", norm(f"{name}.norm1", x))
        y = gate(conv(f"{name}.conv2", y, padding=1, groups=y.shape[1]))
        x = x + conv(f"{name}.conv3", attended(name, y)) * tensors[f"{name}.beta"]
        y = gate(conv(f"{name}.conv4", norm(f"{name}.norm2", x)))
        return x + conv(f"{name}.conv5", y) * tensors[f"{name}.gamma"]

    y, skips = conv("intro", x, padding=1), []
    for level, number in enumerate(config.encoder):
        for i in range(number):
            y = block(f"encoders.{level}.{i}", y)
        skips.append(y)
        y = conv(f"downs.{level}", y, stride=2)
    for i in range(config.middle):
        y = block(f"middle_blks.{i}", y)
    for level, number in enumerate(config.decoder):
        y = F.pixel_shuffle(conv(f"ups.{level}.0", y), 2) + skips[-1 - level]
        for i in range(number):
            y = block(f"decoders.{level}.{i}", y)
    return conv("ending", y, padding=1) + x


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("name", BOTH)
def test_it_equals_the_paper(name: str, activations: bool, drawn: Any) -> None:
    config = replace(VARIANTS[name], width=4, activations=activations)
    ours = drawn(config)
    theirs = LAYOUTS[activations].to_theirs(ours.state_dict(), asdict(config))
    x = noise(2, 3, 32, 48)
    assert_same(forward_and_gradient(ours, x), forward_and_gradient(lambda x: described(theirs, config, x), x))


@pytest.mark.parametrize("name", BOTH)
def test_it_equals_spandrel(name: str, drawn: Any) -> None:
    spandrel = pytest.importorskip("spandrel")
    config = replace(VARIANTS[name], width=8)
    ours = drawn(config)
    tensors = LAYOUTS[0].to_theirs(ours.state_dict(), asdict(config))
    theirs = spandrel.ModelLoader().load_from_state_dict(tensors).model
    x = noise(2, 3, 37, 50)
    assert_same(forward_and_gradient(ours, x), forward_and_gradient(theirs, x))


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # 29.16 and 115.9: issues 60 and 51 of the authors' repository; for GoPro the bytes of their files, by four
        ("nafnet_width32", 29.16),
        ("nafnet_width64", 115.98),
        ("nafnet_width32_gopro", 17.11),
        ("nafnet_width64_gopro", 67.89),
    ],
)
def test_it_has_the_papers_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = build(VARIANTS[name])
    number = sum(parameter.numel() for parameter in network.parameters())
    assert number == pytest.approx(millions * 1e6, abs=1e4)
    assert all(record.parameters == number for record in PUBLISHED if record.network == name)


def test_fresh_blocks_are_their_shortcuts() -> None:
    x = noise(1, 8, 16, 16)
    for activations in (False, True):
        assert torch.equal(build(replace(TINY, activations=activations)).encoders[0](x), x)


# ---------------------------------------------------------------------------------------------------------- images


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=15)
def test_any_image_gives_what_it_gives_with_zeros_below_and_on_the_right(drawn: Any, y: int, x: int, c: int) -> None:
    network = drawn(replace(TINY, in_channels=c))
    image = noise(1, c, y, x)
    found = network(image)
    assert found.shape == image.shape
    padded = network(F.pad(image, (0, -x % 4, 0, -y % 4)))
    torch.testing.assert_close(found, padded[..., :y, :x], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("local", [None, 16])
def test_layout_and_compiler_change_nothing(local: int | None, drawn: Any) -> None:
    network, x = drawn(replace(TINY, encoder=(1,), decoder=(1,), local=local)), noise(2, 3, 50, 44)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_near(drawn: Any) -> None:
    network, x = drawn(replace(TINY, local=16)), noise(1, 3, 48, 48)
    expected = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x)
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("activations", [False, True])
def test_every_parameter_learns(activations: bool, drawn: Any) -> None:
    network = drawn(replace(TINY, activations=activations)).train()
    psnr_loss(network(noise(2, 3, 16, 16)), noise(2, 3, 16, 16, seed=1)).backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters())


def test_levels_down_and_up_have_to_be_as_many() -> None:
    with pytest.raises(ValueError, match="3 levels down, but 2 up"):
        build(replace(TINY, encoder=(1, 1, 1)))


# ------------------------------------------------------------------------------------------------------------ loss


def test_the_loss_is_minus_the_psnr_of_each_image() -> None:
    clean = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    restored = clean + 0.1 * torch.tensor([1.0, 0.1, 2.0]).view(3, 1, 1, 1)
    psnr = torch.tensor([20.0, 40.0, 20 - 20 * torch.tensor(2.0).log10()])
    torch.testing.assert_close(psnr_loss(restored, clean), -psnr.mean(), rtol=1e-4, atol=1e-3)
    assert psnr_loss(clean, clean).item() == pytest.approx(-80)


# ----------------------------------------------------------------------------------------------------- local means


@pytest.mark.parametrize(("size", "windows"), [(256, (384, 192, 96, 48, 24)), (100, (168, 84, 42, 21, 10))])
def test_windows_are_those_of_the_authors_rule(size: int, windows: tuple[int, ...]) -> None:
    """A crop's extent at each level, times the side of the widened crop over the crop's, rounded down.

    A crop of 100 pixels is padded to 112, and 112, 56, 28, 14, 7 times 150 / 100 are those.
    """
    with torch.device("meta"):
        network = build(replace(VARIANTS["nafnet_width32"], width=2, local=size))
    down = [encoder[0].attention.window for encoder in network.encoders]
    up = [decoder[0].attention.window for decoder in network.decoders]
    assert (*down, network.middle[0].attention.window) == windows
    assert down == up[::-1]


def test_windows_that_cover_the_image_are_global_means(drawn: Any) -> None:
    network, x = drawn(TINY), noise(2, 3, 48, 40)
    expected = network(x)
    network.localise(32)
    assert torch.equal(network(x), expected)
    network.localise(16)
    assert (network(x) - expected).norm() > 1e-3 * expected.norm()
    network.localise(None)
    assert torch.equal(network(x), expected)


def test_it_needs_the_whole_image_unless_means_are_local() -> None:
    network = build(TINY)
    assert network.context() is None
    assert network.geometry.halo is None
    network.localise(256)
    assert network.geometry.halo == (256, 256)
    assert network.geometry.multiple == (4, 4)


@pytest.mark.parametrize("size", [8, 12])
def test_the_context_is_what_a_probe_finds(size: int, drawn: Any) -> None:
    """But for half a window more, which tiles at the border of the image need, and rounding."""
    config = replace(TINY, width=2, encoder=(1, 2), decoder=(1, 1), local=size)
    network = drawn(config)
    found = receptive_halo(network, 3, (4, 4))
    assert found is not None
    assert abs(network.context() - found[0] - size * 3 // 4) < network.multiple


@given(st.integers(0, 60), st.integers(1, 20))
@settings(deadline=None, max_examples=15)
def test_tiles_with_the_whole_context_are_the_image(drawn: Any, start: int, length: int) -> None:
    network = drawn(replace(TINY, width=2, local=8))
    image = noise(1, 3, 8, 4 * 60 + 3)
    context, low = network.context(), 4 * start
    high = min(low + 4 * length, image.shape[-1])
    before = max(low - context, 0)
    with torch.inference_mode():
        tile = network(image[..., before : high + context])[..., low - before :][..., : high - low]
        torch.testing.assert_close(tile, network(image)[..., low:high], rtol=1e-5, atol=1e-5)


def test_without_local_means_tiles_disagree_with_the_image(drawn: Any) -> None:
    network, image = drawn(TINY), noise(1, 3, 32, 256)
    tile = network(image[..., 64:192])[..., 32:96]
    assert (tile - network(image)[..., 96:160]).abs().max() > 1e-2


# --------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("activations", [False, True])
def test_what_was_published_comes_back(activations: bool, drawn: Any) -> None:
    config = replace(TINY, activations=activations)
    network, layout = drawn(config), LAYOUTS[activations]
    theirs = layout.to_theirs(network.state_dict(), asdict(config))
    assert recognise(list(theirs), LAYOUTS, "a file") is layout
    again = build(config)
    load_strict(again, layout.to_ours(theirs, asdict(config), "a file"), "a file")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in network.state_dict().items())


@pytest.fixture(scope="module")
def file(drawn: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the authors' are."""
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    theirs = LAYOUTS[0].to_theirs(drawn(TINY).state_dict(), asdict(TINY))
    torch.save({"params": theirs}, path)
    return path


def test_published_files_load(file: Path, drawn: Any) -> None:
    x = noise(1, 3, 20, 20)
    assert torch.equal(abbe.create("nafnet_tiny", weights=file)(x), drawn(TINY)(x))
    local = abbe.create("nafnet_tiny", weights=file, local=256)
    assert local.local == 256


@pytest.mark.parametrize("record", PUBLISHED, ids=lambda record: record.name)
def test_published_files_restore_where_they_are_at_hand(record: Published, picture: np.ndarray) -> None:
    """In the folder of published weights, $ABBE_WEIGHTS or its usual place.

    Noise goes from an image without detail where they know it; to blur there is nothing in it, and it stays as it is.
    """
    path = weights_folder() / record.name
    if not path.exists():
        pytest.skip(f"{path} is not there; {record.address}")
    network = abbe.create(record.network, weights=path).eval()
    clean = torch.from_numpy(picture)[None].expand(-1, 3, -1, -1)
    level = 15 / 255 if record.data == "SIDD" else 0.0
    with torch.inference_mode():
        restored = network(clean + level * noise(*clean.shape))
    assert (restored - clean).square().mean().sqrt() < (level or 0.03) / 1.25


def test_a_grey_image_gives_the_mean_of_what_it_gives_as_colour(file: Path, drawn: Any) -> None:
    grey = noise(1, 1, 20, 20)
    found = abbe.create("nafnet_tiny", weights=file, in_channels=1)(grey)
    expected = drawn(TINY)(grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_any_number_of_channels_comes_out(file: Path) -> None:
    network = abbe.create("nafnet_tiny", weights=file, in_channels=5)
    assert network(noise(1, 5, 20, 20)).shape == (1, 5, 20, 20)
    assert torch.equal(network.ending.bias[:2], network.ending.bias[3:])


def test_a_file_of_another_network_is_told(file: Path, tmp_path: Path, drawn: Any) -> None:
    with pytest.raises(AbbeError, match="these are weights of 'nafnet_tiny'"):
        abbe.create("nafnet_width32", weights=file)
    grey = replace(TINY, in_channels=1)
    torch.save({"params": LAYOUTS[0].to_theirs(drawn(grey).state_dict(), asdict(grey))}, tmp_path / "grey.pth")
    with pytest.raises(AbbeError, match="they have in_channels=1: give it"):
        abbe.create("nafnet_tiny", weights=tmp_path / "grey.pth")
