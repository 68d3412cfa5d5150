"""The objective of restoration: what is made of clean images, and its losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.restoration.dncnn import VARIANTS, build
from abbe.methods.restoration.restore import CLEAN, Restoration, RestorationOptions
from abbe.ops.degradation import exposed_alike
from abbe.ops.point_spread import point_spread


class Identity(nn.Module):
    in_channels = 1
    multiple = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def flat(value: float = 0.5, side: int = 64, channels: int = 1) -> Sample:
    return Sample(np.full((channels, side, side), value, np.float32), name="flat")


def made(options: RestorationOptions, sample: Sample | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    method = Restoration(Identity(), options)
    batch = method.prepare(sample or flat(), np.random.default_rng(seed))
    return {name: tensor.numpy() for name, tensor in batch.items()}


def test_noise_is_as_strong_as_asked_and_not_clipped() -> None:
    batch = made(RestorationOptions(sigma=(25, 25)), flat(1.0, 256))
    noise = batch["image"] - batch["clean"]
    assert noise.std() == pytest.approx(25 / 255, rel=0.02)
    assert abs(noise.mean()) < 0.002
    assert batch["image"].max() > 1.2


def test_photons_make_variance_follow_brightness() -> None:
    options = RestorationOptions(kinds=("camera",), photons=(100, 100), sigma=(0, 0))
    for value in (0.1, 0.4, 0.9):
        image = made(options, flat(value, 256))["image"]
        assert image.var() == pytest.approx(value / 100, rel=0.05)
        assert image.mean() == pytest.approx(value, rel=0.02)


def test_pairs_are_taken_as_they_are() -> None:
    image = np.random.default_rng(0).random((2, 8, 8), np.float32)
    batch = made(RestorationOptions(), Sample(image, extra={CLEAN: 1}))
    np.testing.assert_array_equal(batch["image"], image[:1])
    np.testing.assert_array_equal(batch["clean"], image[1:])


@pytest.mark.parametrize("loss", ["l1", "l2", "psnr"])
def test_pixels_without_a_value_count_nowhere(loss) -> None:
    """Whatever the network makes of them: no gradient and no score comes from there."""
    sample = Sample(np.random.default_rng(0).random((1, 12, 12), np.float32), ignore=np.zeros((12, 12), bool))
    sample.ignore[3:6, 3:6] = True
    method = Restoration(Identity(), RestorationOptions(loss=loss))
    batch = {name: tensor[None] for name, tensor in method.prepare(sample, np.random.default_rng(0)).items()}
    assert np.array_equal(batch["clean"][0, 0].isnan().numpy(), sample.ignore)
    image = batch["image"].requires_grad_()
    method.training_step(batch, generator=torch.Generator())["loss"].backward()
    assert not image.grad[0, 0][sample.ignore].any()
    assert image.grad[0, 0][~sample.ignore].all()
    found = image.detach()[0].numpy()
    other = np.where(sample.ignore, 100.0, found).astype(np.float32)
    truth = [{"clean": batch["clean"][0].numpy()}]
    scores = [method.score([{"restored": one}], truth) for one in (found, other)]
    assert scores[0]["psnr"] == scores[1]["psnr"] == pytest.approx(20.2, abs=1.5)
    assert np.isfinite(scores[0]["ssim"])


KINDS = ["blur", "motion", "microscope", "micrograph", "enlarged", "jpeg"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_flat_images_and_shapes(kind) -> None:
    options = RestorationOptions(kinds=(kind,), sigma=(0, 0), photons=(1e9, 1e9), pixel_size=(0.1, 0.1))
    batch = made(options, flat(0.5, 40, 3))
    assert batch["image"].shape == (3, 40, 40)
    np.testing.assert_allclose(batch["image"], 0.5, atol=0.003)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_something_away(kind) -> None:
    texture = Sample(np.random.default_rng(1).random((1, 64, 64), np.float32))
    options = RestorationOptions(kinds=(kind,), sigma=(0, 0), quality=(10, 10), pixel_size=(0.1, 0.1), blur=(1, 2))
    batch = made(options, texture)
    assert np.corrcoef(batch["image"].ravel(), batch["clean"].ravel())[0, 1] < 0.99


def test_a_micrograph_is_blurred_and_then_exposed() -> None:
    """Mean and variance over many exposures are those of the blurred image, not of the clean one."""
    spot = np.full((1, 21, 21), 0.1, np.float32)
    spot[0, 8:13, 8:13] = 1
    options = RestorationOptions(kinds=("micrograph",), photons=(200, 200), sigma=(5.1, 5.1), pixel_size=(0.1, 0.1))
    method, generator = Restoration(Identity(), options), np.random.default_rng(0)
    pairs = [method.degrade(Sample(spot), generator) for _ in range(600)]
    kernel = point_spread(options.numerical_aperture, options.emission, (0.1, 0.1))
    seen = ndimage.convolve(spot[0], kernel, mode="reflect")
    seen, clean = exposed_alike(seen, spot[0])
    images = np.stack([image[0] for image, _ in pairs])
    np.testing.assert_allclose(pairs[0][1][0], clean, atol=1e-4)
    np.testing.assert_allclose(images.mean(0), seen, atol=0.02)
    variance = seen / 200 + (5.1 / 255) ** 2
    np.testing.assert_allclose(images.var(0), variance, rtol=0.35)
    assert np.median(images.var(0) / variance) == pytest.approx(1, rel=0.05)


def test_resolution_stands_for_aperture_wavelength_and_pixel() -> None:
    texture = Sample(np.random.default_rng(1).random((1, 64, 64), np.float32))
    shared = {"kinds": ("microscope",), "sigma": (0, 0)}
    known = RestorationOptions(**shared, numerical_aperture=1.2, emission=600, pixel_size=(0.25 / 3,) * 2)  # 0.25 µm
    blind = RestorationOptions(**shared, resolution=(3, 3))
    np.testing.assert_allclose(made(known, texture)["image"], made(blind, texture)["image"], atol=1e-4)


def test_haze_takes_contrast_from_a_micrograph() -> None:
    texture = Sample(ndimage.gaussian_filter(np.random.default_rng(1).random((1, 96, 96), np.float32), (0, 2, 2)))
    shared = {"kinds": ("micrograph",), "sigma": (0, 0), "photons": (1e9, 1e9), "resolution": (2, 2)}
    clear, hazy = (made(RestorationOptions(**shared, haze=(h, h)), texture) for h in (0.0, 0.5))
    gain = [np.ptp(batch["clean"]) / np.ptp(batch["image"]) for batch in (clear, hazy)]
    assert gain[1] > 1.5 * gain[0]


def test_crops_of_one_seed_are_the_same() -> None:
    options = RestorationOptions(kinds=("gaussian", "jpeg", "motion"), sigma=(0, 55))
    for seed in range(5):
        assert np.array_equal(made(options, seed=seed)["image"], made(options, seed=seed)["image"])


def test_losses_are_those_of_the_papers() -> None:
    batch = {"image": torch.rand(3, 1, 5, 5), "clean": torch.rand(3, 1, 5, 5)}
    squared = (batch["image"] - batch["clean"]).square().mean((1, 2, 3))
    wanted = {"l2": squared.mean() / 2, "l1": (batch["image"] - batch["clean"]).abs().mean()}
    wanted["psnr"] = (10 * (squared + 1e-8).log10()).mean()
    for name, value in wanted.items():
        method = Restoration(Identity(), RestorationOptions(loss=name))
        found = method.training_step(batch, generator=torch.Generator())
        torch.testing.assert_close(found["loss"], value)
        torch.testing.assert_close(found["psnr"], -wanted["psnr"])


def test_halo_is_the_networks() -> None:
    assert Restoration(build(VARIANTS["dncnn_tiny"])).geometry.halo == (4, 4)


def test_learns_to_denoise_in_seconds() -> None:
    torch.manual_seed(0)
    method = Restoration(build(VARIANTS["dncnn_tiny"]))
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 5
    clean = [
        Sample((0.5 + 0.3 * np.sin(y * a + b) * np.cos(x * b))[None].astype(np.float32))
        for a, b in generator.random((16, 2))
    ]
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for step in range(300):
        batch = [method.prepare(clean[i], generator) for i in generator.integers(16, size=8)]
        losses = method.training_step(
            {key: torch.stack([one[key] for one in batch]) for key in batch[0]}, generator=torch.Generator()
        )
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        if step == 0:
            before = float(losses["psnr"])
    assert losses["psnr"] > max(before, 20.2) + 2  # the noisy images have 20.2 dB


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sigma": (0.1, 0.1)}, r'write "\[25.5, 25.5\]"'),
        ({"sigma": (5, math.inf)}, "from 5 to inf; expected a range of 0 to 255"),
        ({"sigma": (300, 4000)}, "not in its grey values"),
        ({"photons": (0, 100)}, "photons above 0"),
        ({"quality": (0, 200)}, "1 to 100"),
        ({"factors": ()}, "1 or more"),
        ({"factors": (0.0,)}, "1 or more"),
        ({"factors": (-2.0,)}, "1 or more"),
        ({"numerical_aperture": 0.0}, "above 0 and below the index"),
        ({"refractive_index": 1.0}, "1.4 with options.refractive_index 1; .* below the index"),
        ({"emission": 0.52}, "expected nm, .* 520 meant"),
        ({"emission": 5e6}, "expected nm, from 200 to 2000$"),
        ({"pixel_size": (0.1,)}, r"\(Y, X\) or \(Z, Y, X\)"),
        ({"pixel_size": (0.1, 0.0)}, "µm above 0"),
        ({"sigma": (30, 20)}, "range"),
        ({"haze": (0.0, 1.5)}, "at most 1"),
        ({"resolution": (0.0, 3.0)}, "above 0 pixels"),
        ({"resolution": (3.0, 2.0)}, "range"),
    ],
)
def test_senseless_options_are_refused(options, said) -> None:
    with pytest.raises(AbbeError, match=said):
        RestorationOptions(**options)


def test_microscope_needs_a_pixel_size() -> None:
    with pytest.raises(AbbeError, match="pixel size"):
        made(RestorationOptions(kinds=("microscope",)))
