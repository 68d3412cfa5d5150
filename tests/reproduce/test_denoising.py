"""The training that the claims on noise share: crops, looks, and a PSNR that is the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from abbe.methods.restoration.dncnn import DnCNNConfig, build
from abbe.methods.restoration.restore import Restoration, RestorationOptions
from abbe.reproduce.denoising import Course, Exam, Lesson, crop, draw_batch, train, white_exam

COURSE = Course(steps=6, batch=2, crop=16, looks=3, warmup=2, clip=1.0)


def objective() -> Restoration:
    torch.manual_seed(0)
    return Restoration(build(DnCNNConfig(depth=3, width=4)), RestorationOptions(sigma=(25, 25)))


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [np.cumsum(generator.random((1, 24, 40), np.float32), axis=2) / 40 for _ in range(3)]


@given(seed=st.integers(0, 1000), side=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_a_crop_is_a_window_mirrored_or_not_and_its_rows_stay_rows(seed: int, side: int):
    picture = np.arange(2 * 7 * 11).reshape(2, 7, 11)
    found = crop(picture, side, np.random.default_rng(seed))
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(1, 2))
    windows = windows.transpose(1, 2, 0, 3, 4).reshape(-1, 2, side, side)
    mirrored = np.concatenate([windows[..., ::down, ::right] for down in (1, -1) for right in (1, -1)])
    assert (mirrored == found).all(axis=(1, 2, 3)).any()


def test_every_place_and_both_mirrors_are_met():
    picture, generator = np.arange(12).reshape(1, 3, 4), np.random.default_rng(0)
    met = {tuple(crop(picture, 2, generator).ravel()) for _ in range(400)}
    assert len(met) == 2 * 3 * 4


def test_equal_seeds_give_equal_batches_and_noise_is_new_in_each():
    batches = []
    for _ in range(2):
        generator = np.random.default_rng(5)
        batches.append([draw_batch(objective(), Lesson(pictures()), COURSE, generator) for _ in range(2)])
    assert torch.equal(batches[0][0]["image"], batches[1][0]["image"])
    noise = [batch["image"] - batch["clean"] for batch in batches[0]]
    assert not torch.equal(*noise)
    assert torch.cat(noise).std().item() == pytest.approx(25 / 255, rel=0.1)


def test_pairs_are_taken_as_they_are():
    noisy, clean = pictures()[0], pictures()[1]
    lesson = Lesson([np.concatenate([noisy, clean])], clean=1)
    batch = draw_batch(objective(), lesson, Course(1, 50, 24, 1, 0, 1.0), np.random.default_rng(0))
    assert batch["image"].shape == batch["clean"].shape == (50, 1, 24, 24)
    assert set(batch["image"].unique().tolist()) <= set(noisy.ravel().tolist())
    assert set(batch["clean"].unique().tolist()) <= set(clean.ravel().tolist())


def test_psnr_is_that_of_each_square_over_its_range():
    clean = torch.zeros(2, 1, 4, 4)
    exam = Exam(torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 1.0)]), clean, data_range=2.0)
    np.testing.assert_allclose(exam.psnr(nn.Identity()), [20 * np.log10(2 / 0.1), 20 * np.log10(2)], rtol=1e-5)


@pytest.mark.parametrize("sigma", [5.0, 25.0, 50.0])
def test_white_noise_has_its_textbook_psnr(sigma: float):
    exam = white_exam(np.full((8, 1, 64, 64), 0.5, np.float32), sigma, seed=0)
    assert exam.psnr_of(exam.noisy).mean() == pytest.approx(20 * np.log10(255 / sigma), abs=0.05)


@pytest.mark.parametrize(("steps", "looks"), [(6, 3), (7, 3), (5, 5), (3, 1)])
def test_squares_are_looked_at_so_often_and_last_at_the_end(steps: int, looks: int):
    told: list[str] = []
    method, exam = objective(), white_exam(np.stack(pictures())[..., :16, :16], 25, seed=0)
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    course = Course(steps, 2, 16, looks, 0, 1.0)
    curve = train(method, optimizer, Lesson(pictures()), course, exam, 0, told.append)
    assert len(curve) == looks
    assert curve["step"].iloc[-1] == steps
    assert len(told) == steps
    assert curve["psnr"].iloc[-1] == pytest.approx(exam.psnr(method.network).mean())


def test_training_takes_noise_away():
    """Of smooth pictures, which a single filter of 5 x 5 can do."""
    torch.manual_seed(0)
    method = Restoration(nn.Conv2d(1, 1, 5, padding=2, padding_mode="reflect"), RestorationOptions(sigma=(25, 25)))
    exam = white_exam(np.stack(pictures())[..., :24, :24], 25, seed=0)
    optimizer = torch.optim.Adam(method.parameters(), 2e-2)
    train(method, optimizer, Lesson(pictures()), Course(150, 4, 24, 1, 5, 1.0), exam, 0, lambda line: None)
    assert exam.psnr(method.network).mean() > exam.psnr_of(exam.noisy).mean() + 3
