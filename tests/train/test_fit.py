"""Training end to end: it learns, it is reproducible, and nothing that happens to it loses work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from abbe.errors import AbbeError
from abbe.train.checkpoint import load_checkpoint, load_weights
from abbe.train.fit import fit, run_length
from abbe.train.processes import Processes
from abbe.train.recipe import TrainConfig


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, through nested dicts and lists."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def final_state(folder: Path) -> dict[str, Any]:
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    for row in state["standing"]["history"]:
        row.pop("seconds")
    del state["seconds"]
    return state


@pytest.fixture(scope="module")
def uninterrupted(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    toy.train(folder)
    return folder


def test_loss_falls(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.train(tmp_path / "run", epochs=12)
    assert result.history["loss"].iloc[-1] < 0.2 * result.history["loss"].iloc[0]
    assert result.best_score == result.history["error"].min()
    assert not result.stopped_early


def test_two_runs_with_one_seed_are_bit_equal(toy: ModuleType, uninterrupted: Path, tmp_path: Path) -> None:
    toy.train(tmp_path / "again", deterministic=True)
    assert equal(final_state(tmp_path / "again"), final_state(uninterrupted))


def test_another_seed_gives_another_end(toy: ModuleType, uninterrupted: Path, tmp_path: Path) -> None:
    toy.train(tmp_path / "other", seed=1)
    assert not equal(final_state(tmp_path / "other")["model"], final_state(uninterrupted)["model"])


def test_workers_change_nothing(toy: ModuleType, uninterrupted: Path, tmp_path: Path) -> None:
    toy.train(tmp_path / "workers", workers=2)
    assert equal(final_state(tmp_path / "workers"), final_state(uninterrupted))


def test_killed_run_resumes_to_the_same_end(toy: ModuleType, uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = [sys.executable, str(Path(__file__).with_name("toy.py")), str(folder), "9"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    assert subprocess.run(script, env=environment, check=False).returncode == -signal.SIGKILL
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["step"] == 9  # step 9, the tenth, was lost

    toy.train(folder, resume=True)
    assert equal(final_state(folder), final_state(uninterrupted))
    assert equal(*(load_checkpoint(f / "checkpoints" / "best.pt")["model"] for f in (folder, uninterrupted)))


def test_run_killed_before_its_first_checkpoint_begins_again(
    toy: ModuleType, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.toml").write_text("name = 'toy'\n")
    toy.train(folder, resume=True)
    assert equal(final_state(folder), final_state(uninterrupted))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [7, 11])
def test_interrupt_saves_and_can_be_resumed(
    toy: ModuleType, uninterrupted: Path, tmp_path: Path, number: int, step: int
) -> None:
    before = signal.getsignal(number)
    method = toy.Toy()
    method.signals = {step: number}  # 11 is the last step of an epoch: the validation comes later
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "run", method)
    assert signal.getsignal(number) == before
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == step + 1
    assert "--resume" in (tmp_path / "run" / "log.jsonl").read_text()
    toy.train(tmp_path / "run", resume=True)
    assert equal(final_state(tmp_path / "run"), final_state(uninterrupted))


@pytest.mark.parametrize("step", [13, 17])  # 17 is the last step of an epoch
def test_a_run_that_follows_plateaus_resumes_to_the_same_end(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr("abbe.train.schedule.PATIENCE", 1)
    monkeypatch.setattr("abbe.train.schedule.BETTER", 1e9)  # nothing is good enough
    whole = toy.train(tmp_path / "whole", epochs=4, schedule="plateau")
    rates = whole.history["learning_rate"].to_numpy()
    np.testing.assert_allclose(rates, 1e-2 * np.array([1, 1, 0.5, 0.25]))
    method = toy.Toy()
    method.signals = {step: signal.SIGINT}
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "run", method, epochs=4, schedule="plateau")
    toy.train(tmp_path / "run", epochs=4, schedule="plateau", resume=True)
    assert equal(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))


def test_a_signal_behind_what_all_agreed_on_counts_at_the_next_step(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process alone that saves would wait for the others for ever, and one that forgets it would go on."""
    whole, calls = Processes.any, []

    def agreed(self: Processes, *flags: bool) -> Any:
        found = whole(self, *flags)
        if len(flags) == 2:  # at the end of a step
            calls.append(found)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Processes, "any", agreed)
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == len(calls) == 4


@pytest.mark.parametrize("which", [2, 3])  # 3 is the last
def test_interrupt_during_validation_repeats_it(
    toy: ModuleType, uninterrupted: Path, tmp_path: Path, which: int
) -> None:
    calls = []

    def impatient(method: Any) -> dict[str, float]:
        calls.append(1)
        torch.rand(5)
        if len(calls) == which:
            signal.raise_signal(signal.SIGINT)
        return toy.validate(method)

    arguments = (toy.Squares(), None, TrainConfig(**toy.CONFIG), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(toy.Toy(), *arguments, recipe_text="name = 'toy'", validate=impatient, progress=False)
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 6 * which
    toy.train(tmp_path / "run", resume=True)
    assert equal(final_state(tmp_path / "run"), final_state(uninterrupted))


def test_resuming_a_finished_run_returns_its_result(toy: ModuleType, tmp_path: Path) -> None:
    first = toy.train(tmp_path / "run")
    again = toy.train(tmp_path / "run", resume=True)
    pd.testing.assert_frame_equal(first.history, again.history)
    assert again.best_score == first.best_score


def test_finished_run_can_be_prolonged(toy: ModuleType, tmp_path: Path) -> None:
    toy.train(tmp_path / "run", epochs=2)
    result = toy.train(tmp_path / "run", epochs=4, resume=True)
    assert list(result.history["epoch"]) == [1, 2, 3, 4]


def test_method_ends_with_the_best_averaged_weights(toy: ModuleType, tmp_path: Path) -> None:
    method = toy.Toy()
    result = toy.train(tmp_path / "run", method)
    assert not method.training
    assert toy.validate(method)["error"] == pytest.approx(result.best_score, rel=1e-6)
    weights = load_weights(result.best_path)
    assert weights.keys() == method.state_dict().keys()
    assert all(tensor.is_contiguous() for tensor in weights.values())
    assert equal(weights, dict(method.state_dict()))


def test_patience_ends_a_run_without_gain(toy: ModuleType, tmp_path: Path) -> None:
    scores = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    config = TrainConfig(**{**toy.CONFIG, "epochs": 5, "patience": 2})
    method = toy.Toy()
    arguments = (method, toy.Squares(), None, config, tmp_path / "run")
    result = fit(*arguments, validate=lambda _: {"error": next(scores)}, progress=False)
    assert result.stopped_early
    assert (result.best_score, len(result.history)) == (0.4, 4)
    again = fit(*arguments, validate=lambda _: {"error": next(scores)}, progress=False, resume=True)
    assert len(again.history) == 4


def test_validation_every_other_epoch_and_at_the_end(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.train(tmp_path / "run", validate_every=2, epochs=3)
    assert list(result.history["error"].notna()) == [False, True, True]


def test_a_figure_of_the_training_is_not_taken_for_the_validations(toy: ModuleType, tmp_path: Path) -> None:
    class Telling(toy.Toy):  # type: ignore[name-defined]
        def training_step(self, batch: Any, *, generator: torch.Generator) -> dict[str, torch.Tensor]:
            losses = super().training_step(batch, generator=generator)
            return {**losses, "error": torch.zeros(())}

    result = toy.train(tmp_path / "run", Telling(), validate_every=2, epochs=4)
    assert list(result.history["error"].notna()) == [False, True, False, True]
    assert result.history["error"].min() == result.best_score > 0


def test_validation_loss_decides_without_a_metric(toy: ModuleType, tmp_path: Path) -> None:
    arguments = (toy.Toy(), toy.Squares(), toy.Squares(7), TrainConfig(**toy.CONFIG), tmp_path / "run")
    result = fit(*arguments, progress=False)
    assert result.best_score == result.history["validation_loss"].min()
    assert "validation_half" in result.history


def test_bfloat16_learns_too(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.train(tmp_path / "run", epochs=8, precision="bfloat16")
    assert result.history["loss"].iloc[-1] < 0.3 * result.history["loss"].iloc[0]


def test_diverging_loss_is_told_with_its_step(toy: ModuleType, tmp_path: Path) -> None:
    class Diverging(toy.Toy):  # type: ignore[name-defined]
        steps = 0

        def training_step(self, batch: Any, *, generator: torch.Generator) -> dict[str, torch.Tensor]:
            self.steps += 1
            return {
                "loss": super().training_step(batch, generator=generator)["loss"] * (1 / (8 - self.steps or torch.nan))
            }

    with pytest.raises(AbbeError, match=r"loss is nan at step 8.*learning_rate"):
        toy.train(tmp_path / "run", Diverging())
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert last["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in last["model"].values())


def test_metric_that_decides_must_be_there(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="no 'error', which decides; it gives ap50"):
        fit(
            toy.Toy(),
            toy.Squares(),
            None,
            TrainConfig(**toy.CONFIG),
            tmp_path / "run",
            validate=lambda _: {"ap50": 1.0},
            progress=False,
        )


def test_run_folder_is_not_overwritten(toy: ModuleType, uninterrupted: Path) -> None:
    with pytest.raises(AbbeError, match="holds a training run; add --resume"):
        toy.train(uninterrupted)


def test_nothing_to_resume(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="no training run to resume"):
        toy.train(tmp_path / "nowhere", resume=True)


def test_resume_refuses_another_recipe(toy: ModuleType, tmp_path: Path) -> None:
    def run(text: str, resume: bool) -> None:
        config = TrainConfig(**{**toy.CONFIG, "epochs": 1})
        arguments = (toy.Toy(), toy.Squares(), None, config, tmp_path / "run")
        fit(*arguments, recipe_text=text, validate=toy.validate, resume=resume, progress=False)

    run("[train]\nlearning_rate = 0.1\nworkers = 0", resume=False)
    run("[train]\nlearning_rate = 0.1\nworkers = 1", resume=True)
    with pytest.raises(AbbeError, match=r"train.learning_rate = 0.1, now 0.2"):
        run("[train]\nlearning_rate = 0.2", resume=True)


def test_empty_training_set(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="no samples"):
        fit(toy.Toy(), toy.Squares(0), None, TrainConfig(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_run_folder_tells_what_happened(uninterrupted: Path) -> None:
    names = {path.relative_to(uninterrupted).as_posix() for path in uninterrupted.rglob("*") if path.is_file()}
    assert {"recipe.toml", "environment.json", "log.jsonl", "curves.csv", "curves.png"} <= names
    assert {"checkpoints/last.pt", "checkpoints/best.pt"} <= names
    assert not any("lightning" in name or "unfinished" in name for name in names)
    environment = json.loads((uninterrupted / "environment.json").read_text())
    assert {"abbe", "torch", "python", "processor", "command"} <= environment.keys()
    events = [json.loads(line) for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "epoch", "epoch", "epoch", "end"]
    assert len(pd.read_csv(uninterrupted / "curves.csv")) == 3


def test_training_is_quiet(toy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    toy.train(tmp_path / "run", epochs=1)
    assert capfd.readouterr() == ("", "")


def test_players_train_in_turn(tmp_path: Path, toy: ModuleType) -> None:
    """Each side descends its own loss on its own parameters: one rises while the other falls."""

    class Pull(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
            self.asked: list[str] = []

        def players(self) -> dict[str, list[torch.nn.Parameter]]:
            return {"up": [self.up], "down": [self.down]}

        def training_step(self, batch: Any, *, generator: Any, player: str) -> dict[str, torch.Tensor]:
            self.asked.append(player)
            return {"loss": self.down.sum() - self.up.sum() if player == "up" else self.down.sum() + self.up.sum()}

    method = Pull()
    config = TrainConfig(**{**toy.CONFIG, "epochs": 1, "ema_decay": 0.0})
    config.optimizer, config.weight_decay = "sgd", 0.0
    result = fit(method, toy.Squares(), toy.Squares(5), config, tmp_path / "run", progress=False)
    assert method.asked[:4] == ["up", "down", "up", "down"]
    last = load_weights(result.last_path)
    assert (last["up"] > 0).all()
    assert (last["down"] < 0).all()
    assert {"up/loss", "down/loss", "validation_up/loss"} <= set(result.history.columns)
    assert result.best_score == 1


def test_run_length() -> None:
    assert run_length(20, TrainConfig(epochs=3, batch_size=8)) == (2, 6)
    assert run_length(20, TrainConfig(epochs=3, batch_size=8, steps_per_epoch=10)) == (10, 30)
    assert run_length(3, TrainConfig(steps=7, batch_size=8)) == (1, 7)
