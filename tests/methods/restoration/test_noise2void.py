"""The blind spot hides what it says that it hides, and a network learns from the rest."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abbe.contract import Method
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.restoration.noise2void import (
    VARIANTS,
    ChannelByChannel,
    Noise2Void,
    Noise2VoidConfig,
    Noise2VoidOptions,
    blind,
    box_sides,
    build,
    stratified_places,
)
from abbe.tiling.grid import plan
from abbe.tiling.run import run
from abbe.tiling.stitch import stitch

patches = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(2, 40)),
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 16), st.integers(2, 16)),
)
shares = st.sampled_from([0.00198, 0.015, 0.05, 0.25])


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """An image whose pixels tell where they are."""
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


# ------------------------------------------------------------------------------------------------- blind spots


@settings(deadline=None, max_examples=40)
@given(shape=patches, share=shares, radius=st.integers(1, 5), centre=st.booleans(), seed=st.integers(0, 99))
def test_the_manipulation_equals_a_loop(shape, share, radius, centre, seed):
    image = np.random.default_rng(seed).normal(size=shape)
    found = blind(image, share, radius, np.random.default_rng(seed), centre=centre)
    generator = np.random.default_rng(seed)
    places = [tuple(place) for place in stratified_places(shape, box_sides(shape, share), generator).T]
    windows = [allowed_neighbours(place, places, shape, radius, centre) for place in places]
    chosen = generator.integers(0, [max(len(window), 1) for window in windows])
    expected, mask = image.copy(), np.zeros(shape, bool)
    for place, window, number in zip(places, windows, chosen, strict=True):
        if window:
            expected[place], mask[place] = image[window[number]], True
    np.testing.assert_array_equal(found.image, expected)
    np.testing.assert_array_equal(found.mask, mask)


def allowed_neighbours(place, places, shape, radius, centre):
    """List the pixels that may lend their value: of the same channel, near, inside, and not hidden themselves."""
    ranges = [range(max(p - radius, 0), min(p + radius + 1, extent)) for p, extent in zip(place[1:], shape[1:])]
    around = [(place[0], *spot) for spot in product(*ranges)]
    return [spot for spot in around if spot not in places or (centre and spot == place)]


@settings(deadline=None, max_examples=40)
@given(shape=patches, share=shares, radius=st.integers(1, 3), seed=st.integers(0, 99))
def test_what_is_hidden_leaves_no_trace(shape, share, radius, seed):
    """Whatever the hidden pixels were, the network sees the same; elsewhere it sees the image."""
    image = np.random.default_rng(seed).normal(size=shape)
    seen, mask = blind(image, share, radius, np.random.default_rng(seed), centre=False)
    other = np.where(mask, 1e3 + image, image)
    np.testing.assert_array_equal(blind(other, share, radius, np.random.default_rng(seed), centre=False).image, seen)
    np.testing.assert_array_equal(seen[~mask], image[~mask])
    assert (seen[mask] != image[mask]).all()


@settings(deadline=None, max_examples=40)
@given(shape=patches, share=shares, seed=st.integers(0, 99))
def test_every_whole_box_has_one_pixel_and_no_box_two(shape, share, seed):
    sides = box_sides(shape, share)
    places = stratified_places(shape, sides, np.random.default_rng(seed))
    assert places.shape[1] > 0
    assert (places < np.array(shape)[:, None]).all()
    boxes = [tuple(box) for box in (places // np.array(sides)[:, None]).T]
    assert len(set(boxes)) == len(boxes)
    whole = set(product(*(range(extent // side) for extent, side in zip(shape, sides))))
    assert whole <= set(boxes)


@pytest.mark.parametrize(("shape", "share"), [((1, 23, 31), 0.04), ((2, 64, 64), 0.00198), ((1, 9, 10, 13), 0.015)])
def test_every_pixel_is_hidden_equally_often(shape, share):
    sides, generator, repeats = box_sides(shape, share), np.random.default_rng(0), 3000
    counts = np.zeros(shape)
    for _ in range(repeats):
        counts[tuple(stratified_places(shape, sides, generator))] += 1
    expected = repeats / np.prod(sides)
    assert np.prod(sides) * share == pytest.approx(1, rel=0.2)
    assert counts.mean() == pytest.approx(expected, rel=0.03)
    # Hits of a pixel are binomial, so that the statistic is that of chi-square but for the factor 1 - p.
    statistic = ((counts - expected) ** 2 / expected).sum() / (1 - expected / repeats)
    assert 1e-4 < stats.chi2.sf(statistic, counts.size) < 1 - 1e-4


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize(("shape", "radius"), [((1, 64, 64), 2), ((1, 64, 64), 1), ((1, 12, 24, 24), 1)])
def test_every_neighbour_is_equally_likely(shape, radius, centre):
    """Chi-square over the offsets of pixels away from the border; a sampler that rounds or clips would fail."""
    image, generator = numbered(shape), np.random.default_rng(1)
    window = (2 * radius + 1,) * (len(shape) - 1)
    counts = np.zeros(window, int)
    for _ in range(1500):
        seen, mask = blind(image, 0.00198, radius, generator, centre=centre)
        places = np.array(mask.nonzero())
        inner = ((places[1:] >= radius) & (places[1:] < np.array(shape[1:])[:, None] - radius)).all(axis=0)
        sources = np.array(np.unravel_index(seen[mask].astype(int), shape))
        np.add.at(counts, tuple((sources - places)[1:, inner] + radius), 1)
    middle = (radius,) * len(window)
    assert bool(counts[middle]) == centre
    cells = counts.ravel() if centre else np.delete(counts.ravel(), counts.size // 2)
    assert cells.sum() > 5000
    assert stats.chisquare(cells).pvalue > 1e-3


def test_at_a_corner_the_window_is_cut_and_all_of_it_is_equally_likely():
    image, generator, counts = numbered((1, 8, 8)), np.random.default_rng(2), np.zeros((3, 3), int)
    for _ in range(8000):
        seen, mask = blind(image, 1 / 16, 2, generator, centre=True)
        if mask[0, 0, 0]:
            counts[np.unravel_index(int(seen[0, 0, 0]), (8, 8))] += 1
    assert counts.sum() > 400
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_channels_are_masked_apart():
    mask = blind(np.zeros((3, 64, 64)), 0.015, 2, np.random.default_rng(0), centre=True).mask
    assert (mask.sum(axis=(1, 2)) == 64).all()
    assert (mask[0] & mask[1]).sum() < 10


def test_no_output_depends_on_its_own_pixel(randomised):
    """The gradient of the output at a hidden pixel by the image at that pixel is 0; at others it is not."""
    network = randomised(build(VARIANTS["noise2void_tiny"])).double()
    shape = (1, 32, 32)
    seen, mask = blind(numbered(shape), 0.015, 2, np.random.default_rng(0), centre=False)
    image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    blinded = image.flatten()[torch.from_numpy(seen.astype(int)).flatten()].reshape(1, *shape)
    output, places = network(blinded)[0], np.argwhere(mask)
    for place in map(tuple, places[::4]):
        (gradient,) = torch.autograd.grad(output[place], image, retain_graph=True)
        assert gradient[place] == 0
        assert gradient.abs().sum() > 0
    (gradient,) = torch.autograd.grad(output[tuple(np.argwhere(~mask)[40])], image)
    assert gradient[tuple(np.argwhere(~mask)[40])] != 0


@pytest.mark.parametrize(
    ("changed", "said"), [({"share": 0.0}, "share"), ({"share": 0.5}, "share"), ({"radius": 0}, "ius")]
)
def test_impossible_options_are_refused(changed, said):
    with pytest.raises(AbbeError, match=said):
        Noise2VoidOptions(**changed)


# ----------------------------------------------------------------------------------------------------- network


def by_definition(network, x, axes, residual):
    """The U-Net written down from the description, with the network's weights."""
    weights = network.state_dict()
    convolve, pool = (F.conv2d, F.max_pool2d) if axes == 2 else (F.conv3d, F.max_pool3d)

    def level(x, name):
        for place in (0, 3):
            kernel = weights[f"{name}.{place}.weight"]
            x = convolve(x, kernel, padding=kernel.shape[-1] // 2)
            norm = [weights[f"{name}.{place + 1}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            x = F.batch_norm(x, *norm).clamp(min=0)
        return x

    def double(x):
        for axis in range(2, 2 + axes):
            x = x.repeat_interleave(2, dim=axis)
        return x

    fine = level(x, "contracting.0")
    middle = level(pool(fine, 2), "contracting.1")
    coarse = level(pool(middle, 2), "middle")
    up = level(torch.cat([double(coarse), middle], 1), "expanding.0")
    up = level(torch.cat([double(up), fine], 1), "expanding.1")
    y = convolve(up, weights["head.weight"], weights["head.bias"])
    return x + y if residual else y


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("kernel", "residual"), [(3, True), (5, False)])
def test_the_forward_is_that_of_the_definition(randomised, axes, kernel, residual):
    config = Noise2VoidConfig(2, 6, 2, kernel, (2,) * axes, residual, separate_channels=False)
    network = randomised(build(config)).double()
    x = torch.randn(2, 2, *(8, 12, 16)[-axes:], dtype=torch.float64)
    torch.testing.assert_close(network(x), by_definition(network, x, axes, residual))


def test_the_sizes_are_those_of_the_recipe():
    """Section 4: 96 feature maps at the first level, depth 2; every level down doubles, the way up halves."""
    with torch.device("meta"):
        network = build(VARIANTS["noise2void"])
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        *[(1, 96), (96, 96), (96, 192), (192, 192)],
        *[(192, 384), (384, 192), (384, 192), (192, 96), (192, 96), (96, 96), (96, 1)],
    ]
    assert {m.kernel_size for m in convolutions} == {(3, 3), (1, 1)}


def test_extents_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples"):
        build(VARIANTS["noise2void_tiny"])(torch.zeros(1, 1, 8, 10))


def test_channels_are_restored_apart(randomised):
    network = randomised(build(Noise2VoidConfig(in_channels=3, base=4))).double()
    assert isinstance(network, ChannelByChannel)
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    other = image.clone()
    other[:, 1] += 1
    changed = (network(image) - network(other)).abs().amax((0, 2, 3)) > 1e-9
    assert changed.tolist() == [False, True, False]
    together = randomised(build(Noise2VoidConfig(in_channels=3, base=4, separate_channels=False))).double()
    assert ((together(image) - together(other)).abs().amax((0, 2, 3)) > 1e-9).all()


@pytest.mark.parametrize(
    ("config", "shape", "tile"),
    [
        (Noise2VoidConfig(base=4), (83, 150), (72, 84)),
        (Noise2VoidConfig(in_channels=2, base=2, kernel=5, residual=False), (131, 45), (112, 112)),
        (Noise2VoidConfig(base=2, pool=(1, 2, 2)), (5, 90, 70), (16, 72, 72)),
    ],
)
def test_tiles_of_an_image_of_any_size_equal_the_whole(randomised, config, shape, tile):
    method = Noise2Void(randomised(build(config)).double())
    image = np.random.default_rng(0).normal(size=(config.in_channels, *shape))

    def region(box):
        return image[(slice(None), *(slice(*span) for span in box))]

    def predict(windows):
        with torch.inference_mode():
            return {name: maps.numpy() for name, maps in method.predict(torch.from_numpy(windows)).items()}

    def restored(extents):
        grid = plan(shape, method.geometry, extents)
        return len(grid), stitch(run(region, shape, grid, predict), shape)["restored"]

    (number, tiled), (one, whole) = restored(tile), restored([400] * len(shape))
    assert (number > 2, one) == (True, 1)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-11)


# --------------------------------------------------------------------------------------------------- objective


def tiny(**options):
    torch.manual_seed(0)
    return Noise2Void(build(VARIANTS["noise2void_tiny"]), Noise2VoidOptions(**options))


def test_it_is_a_method():
    assert isinstance(tiny(), Method)


def test_prepare_gives_patch_target_and_mask_and_asks_for_no_ignored_pixel():
    image = np.random.default_rng(0).normal(size=(2, 24, 32)).astype(np.float32)
    ignore = np.zeros((24, 32), bool)
    ignore[:12] = True
    tensors = tiny(share=0.05).prepare(Sample(image, ignore=ignore), np.random.default_rng(0))
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "image": ((2, 24, 32), torch.float32),
        "target": ((2, 24, 32), torch.float32),
        "mask": ((2, 24, 32), torch.bool),
    }
    np.testing.assert_array_equal(tensors["target"], image)
    assert tensors["mask"][:, 12:].any()
    assert not tensors["mask"][:, :12].any()


def test_a_patch_of_one_pixel_is_refused_by_name():
    with pytest.raises(AbbeError, match="plate1.tif"):
        tiny().prepare(Sample(np.zeros((1, 1, 1), np.float32), name="plate1.tif"), np.random.default_rng(0))


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_the_loss_is_the_mean_over_hidden_pixels(loss):
    method, generator = tiny(loss=loss).eval(), np.random.default_rng(0)
    samples = [Sample(generator.normal(size=(1, 32, 32)).astype(np.float32)) for _ in range(3)]
    prepared = [method.prepare(sample, generator) for sample in samples]
    batch = {name: torch.stack([one[name] for one in prepared]) for name in prepared[0]}
    errors = []
    for one in prepared:
        output = method.predict(one["image"][None])["restored"][0].detach()
        errors += [float(output[tuple(p)] - one["target"][tuple(p)]) for p in one["mask"].nonzero()]
    expected = np.mean(np.square(errors) if loss == "mse" else np.abs(errors))
    found = method.training_step(batch, generator=torch.Generator())["loss"].item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_hidden_pixels_has_no_loss():
    zeros = torch.zeros(1, 1, 8, 8)
    batch = {"image": zeros, "target": zeros + 1, "mask": zeros.bool()}
    assert tiny().training_step(batch, generator=torch.Generator())["loss"] == 0


def test_the_score_knows_clean_images_where_there_are_some():
    clean = np.linspace(0, 10, 64).reshape(1, 8, 8)
    decoded = tiny().decode({"restored": clean + 0.1})
    measured = tiny().score([decoded, decoded], [{"clean": clean}, {}])
    assert measured["psnr"] == pytest.approx(40)  # 20 log10(10 / 0.1)
    assert tiny().score([decoded], [{}]) == {}


# ---------------------------------------------------------------------------------------------------- learning


def test_a_short_training_on_the_noisy_image_alone_brings_it_nearer_to_the_clean_one(gain_of_training):
    assert gain_of_training(tiny(share=0.02), "independent", steps=120) > 4


def test_noise_that_neighbours_share_stays(gain_of_training):
    """What can be foretold from the neighbours is kept, noise or not (Section 5), once it has been learnt."""
    assert gain_of_training(tiny(share=0.02, centre=False), "stripes", steps=400) < 1


@pytest.mark.parametrize("name", ["noise2void", "noise2void_small"])
def test_the_first_answers_are_small(name):
    torch.manual_seed(0)
    config = VARIANTS[name]
    x = torch.randn(4, 1, 32, 32)
    with torch.no_grad():
        answer = build(config).train()(x) - (x if config.residual else 0)
    assert answer.std() < x.std() / 2
