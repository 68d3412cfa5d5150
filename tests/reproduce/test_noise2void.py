"""Noise2Void's claims: noise of lines is what it is said to be, and who learns without clean images sees none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from abbe.ops.noise import estimate_noise
from abbe.reproduce.claims import ClaimSettings
from abbe.reproduce.denoising import Course, Exam
from abbe.reproduce.noise2void import (
    FAILS,
    INPUT,
    LINE,
    MENDS,
    NEAR,
    NOISE,
    SIGMA,
    STRUCT,
    SUPERVISED,
    TRAININGS,
    VOID,
    Budget,
    World,
    add_noise,
    judge,
    make_world,
    measured,
    objective_of,
    run,
    tabulate,
)
from abbe.reproduce.photographs import Photographs

TINY = Budget(Course(2, 2, 16, 2, 1, 1.0), base=4, share=0.02, held_out=3, side=32)


def noise_of(kind: str) -> np.ndarray:
    grey = np.full((1, 400, 400), 0.5, np.float32)
    return (add_noise(grey, kind, np.random.default_rng(0)) - grey)[0] * 255


@pytest.fixture(params=list(TRAININGS))
def world(request: pytest.FixtureRequest) -> World:
    generator = np.random.default_rng(1)
    train = tuple(generator.random((1, 40, 50), np.float32) for _ in range(3))
    return make_world(Photographs(train, generator.random((2, 1, 32, 32), np.float32), "here"), request.param, seed=0)


@pytest.mark.parametrize("kind", list(TRAININGS))
def test_either_noise_has_its_deviation_and_no_mean(kind: str):
    noise = noise_of(kind)
    assert noise.std() == pytest.approx(SIGMA, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.3)


def test_lines_share_noise_with_four_neighbours_in_the_row_and_with_none_in_the_column():
    """The mean of five white values shares 5 - n of them with the one n pixels further."""
    noise = noise_of("lines")
    row = [np.mean(noise[:, :-n] * noise[:, n:]) / noise.var() for n in range(1, 7)]
    column = [np.mean(noise[:-n] * noise[n:]) / noise.var() for n in range(1, 4)]
    np.testing.assert_allclose(row, [0.8, 0.6, 0.4, 0.2, 0, 0], atol=0.02)
    np.testing.assert_allclose(column, 0, atol=0.02)


@pytest.mark.parametrize(("kind", "verdict"), [("white", "independent"), ("lines", "horizontal")])
def test_the_package_itself_tells_the_two_apart(kind: str, verdict: str):
    found = estimate_noise(noise_of(kind))
    assert found.verdict == verdict
    if kind == "lines":
        assert abs(found.reach - LINE) <= 1  # the first neighbour that shares nothing


def test_noisy_images_have_mean_zero_and_deviation_one(world: World):
    values = np.concatenate([image.ravel() for image in world.noisy])
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-4)


def test_psnr_is_on_the_scale_of_the_photographs(world: World):
    """Squares have noise of 25 of 255, whatever it was divided by."""
    assert world.exam.psnr_of(world.exam.noisy).mean() == pytest.approx(20 * np.log10(255 / SIGMA), abs=0.6)


@pytest.mark.parametrize("way", [VOID, STRUCT, NOISE, SUPERVISED])
def test_only_those_with_clean_targets_see_clean_images(world: World, way: str):
    lesson = world.lesson(way)
    shown = [channel for picture in lesson.pictures for channel in picture]
    sees_clean = any(np.array_equal(channel, clean[0]) for channel in shown for clean in world.clean)
    assert sees_clean == (way == SUPERVISED)
    assert all(np.array_equal(picture[0], noisy[0]) for picture, noisy in zip(lesson.pictures, world.noisy))
    assert lesson.clean == (way in (NOISE, SUPERVISED))


def test_the_two_noisy_copies_have_noise_of_their_own(world: World):
    noise, again = ([a - b for a, b in zip(c, world.clean)] for c in (world.noisy, world.again))
    together = np.concatenate([x.ravel() for x in noise]), np.concatenate([x.ravel() for x in again])
    assert abs(np.corrcoef(*together)[0, 1]) < 0.1


def test_struct_hides_all_that_shares_the_noise():
    """Of every pixel that is asked for, the four on either side in the row do not show their values."""
    method = objective_of(STRUCT, torch.nn.Identity(), Budget(share=0.01))
    image = np.random.default_rng(0).random((1, 64, 64), np.float32) + 10
    blinded = method.hide(image, np.random.default_rng(1))
    for _, y, x in np.argwhere(blinded.mask):
        around = slice(max(x - LINE + 1, 0), x + LINE)
        assert (blinded.image[0, y, around] != image[0, y, around]).all()


def test_kept_noise_is_all_of_what_is_left_alone_and_none_of_what_is_clean():
    clean = torch.rand(3, 1, 16, 16)
    exam = Exam(clean + torch.randn(3, 1, 16, 16), clean)
    for images, kept in ((exam.noisy, 1.0), (clean, 0.0), ((exam.noisy + clean) / 2, 0.5)):
        assert measured("white", VOID, images, exam).kept == pytest.approx(kept, abs=1e-5)


def table(near: float, fails: float, mends: float) -> pd.DataFrame:
    """What was found, by parts of the gain of clean targets."""
    parts = {("white", VOID): near, ("white", NOISE): 0.9, ("lines", VOID): fails, ("lines", STRUCT): mends}
    rows = [(noise, way, 20 + 8 * part) for (noise, way), part in parts.items()]
    rows += [(noise, way, psnr) for noise in TRAININGS for way, psnr in ((INPUT, 20.0), (SUPERVISED, 28.0))]
    found = pd.DataFrame(rows, columns=["noise", "way", "psnr"])
    return found.assign(gain=found["psnr"] - 20, part=(found["psnr"] - 20) / 8, noise_kept=0.5)


@pytest.mark.parametrize(
    ("parts", "holds"),
    [
        ((NEAR + 0.01, FAILS - 0.01, MENDS + 0.01), True),
        ((NEAR - 0.01, FAILS - 0.01, MENDS + 0.01), False),
        ((NEAR + 0.01, FAILS + 0.01, MENDS + 0.01), False),
        ((NEAR + 0.01, FAILS - 0.01, MENDS - 0.01), False),
    ],
)
def test_all_three_parts_have_to_hold(parts: tuple[float, float, float], holds: bool):
    verdict, sentence = judge(table(*parts))
    assert verdict == holds
    assert ("does not" in sentence) or holds or parts[1] > FAILS


def test_a_tiny_run_gives_table_and_figure_and_repeats_itself():
    tables = []
    for _ in range(2):
        told: list[str] = []
        found = run(ClaimSettings(seed=2), told.append, TINY)
        tables.append(found.table)
    assert set(zip(found.table["noise"], found.table["way"])) == {
        (noise, way) for noise, ways in TRAININGS.items() for way in (INPUT, *ways)
    }
    rows = found.table.set_index("way")
    assert (rows.loc[INPUT, "gain"] == 0).all()
    assert (rows.loc[SUPERVISED, "part"] == 1).all()
    assert len(found.figure.axes) == 10
    assert "100%" in told[-1]
    pd.testing.assert_frame_equal(*tables)


def test_the_table_is_of_the_restored_squares():
    exam = Exam(torch.full((2, 1, 4, 4), 0.1), torch.zeros(2, 1, 4, 4))
    found = tabulate([measured("white", INPUT, exam.noisy, exam), measured("white", SUPERVISED, exam.noisy / 10, exam)])
    np.testing.assert_allclose(found["psnr"], [20, 40], rtol=1e-5)
    np.testing.assert_allclose(found["gain"], [0, 20], rtol=1e-5)
