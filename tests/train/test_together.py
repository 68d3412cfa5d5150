"""Several processes train as one does: on its samples, to its weights, and they stop together or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from abbe.errors import AbbeError
from abbe.model import load_model
from abbe.train.checkpoint import load_checkpoint, load_weights
from abbe.train.recipe import TrainConfig

SECONDS = 300
"""After which processes that wait for one another are ended; the slowest group takes some 15 s on two idle cores."""
LAUNCHERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(**changes: Any) -> dict[str, str]:
    """The environment without what an outer launcher has set."""
    clean = {k: v for k, v in os.environ.items() if k not in LAUNCHERS and not k.startswith(("SLURM", "TORCHELASTIC"))}
    return clean | {"OMP_NUM_THREADS": "1"} | {key: str(value) for key, value in changes.items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(command: Sequence[str | Path], variables: dict[str, str]) -> subprocess.Popen[str]:
    """Start a process in a group of its own, so that what it starts can be ended with it."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in command], env=variables, start_new_session=True, **pipes)


def finish(*started: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Wait for processes and give code, output and errors of each; the test fails when they hang."""
    try:
        said = [process.communicate(timeout=SECONDS) for process in started]
    except subprocess.TimeoutExpired:
        pytest.fail("processes that train together hang")
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def by_torchrun(*command: str | Path) -> list[tuple[int, str, str]]:
    """Run a command in two processes with the variables that torchrun sets."""
    port = free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    ranks = ({"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "none"} for rank in range(2))
    return finish(*(start(command, environment(**shared, **rank)) for rank in ranks))


@pytest.fixture(scope="module")
def together() -> ModuleType:
    spec = importlib.util.spec_from_file_location("abbe_tests_together", Path(__file__).with_name("together.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["abbe_tests_together"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(together: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, ended or interrupted, and beside them those that two processes have done since."""
    root = tmp_path_factory.mktemp("together")
    for name in together.METHODS:
        together.train(name, root / f"alone_{name}")
    with pytest.raises(KeyboardInterrupt):
        together.train("instances", root / "one_ddp", stop_after=together.STOP)
    shutil.copytree(root / "one_ddp", root / "one_fsdp")
    for code, _, errors in by_torchrun(sys.executable, Path(__file__).with_name("together.py"), root):
        assert code == 0, errors
    return root


@pytest.fixture(scope="module")
def outcomes(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (json.loads((place / f"outcome{rank}.json").read_text()) for rank in range(2))
    return first, second


def last(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.pt")


def assert_same_end(folder: Path, alone: Path) -> None:
    """Weights and their averages agree within 1e-5, and nothing about them tells that they were ever split."""
    for part in ("model", "ema"):
        torch.testing.assert_close(last(folder)[part], last(alone)[part], atol=1e-5, rtol=0)
    best, expected = (load_weights(run / "checkpoints" / "best.pt") for run in (folder, alone))
    torch.testing.assert_close(best, expected, atol=1e-5, rtol=0)
    assert all(type(tensor) is torch.Tensor for tensor in best.values())


@pytest.mark.parametrize("name", ["instances", "unet_2015"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(place: Path, outcomes: Any, strategy: str, name: str) -> None:
    run = place / f"{strategy}_{name}"
    assert_same_end(run, place / f"alone_{name}")
    rows, expected = (last(folder)["standing"]["history"] for folder in (run, place / f"alone_{name}"))
    for row, other in zip(rows, expected, strict=True):
        keys = row.keys() - {"seconds"}
        assert {key: row[key] for key in keys} == pytest.approx({key: other[key] for key in keys}, abs=1e-5)
    for outcome in outcomes:
        assert outcome[f"{strategy}_{name}"]["best"] == pytest.approx(last(run)["standing"]["best_score"], rel=1e-6)
    assert [outcome[f"{strategy}_{name}"]["leads"] for outcome in outcomes] == [True, False]


def test_the_comparison_would_notice(place: Path, together: ModuleType) -> None:
    """The clipped, averaged steps move the weights far more than the tolerance."""
    begun, ended = together.Instances().state_dict(), last(place / "alone_instances")["model"]
    assert max(float((ended[name] - begun[name]).abs().max()) for name in begun) > 1e-2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("again", ["", "_again"])
def test_interrupt_of_either_process_stops_both_and_one_goes_on(
    place: Path, outcomes: Any, together: ModuleType, tmp_path: Path, strategy: str, again: str
) -> None:
    name = f"two_{strategy}{again}"
    assert [outcome[name]["error"] for outcome in outcomes] == ["KeyboardInterrupt", "SystemExit"]
    assert last(place / name)["step"] == together.STOP + 1
    run = tmp_path / "run"
    shutil.copytree(place / name, run)
    together.train("instances", run, resume=True)
    assert_same_end(run, place / "alone_instances")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_one_process_goes_on_with_two(place: Path, outcomes: Any, strategy: str) -> None:
    assert_same_end(place / f"one_{strategy}", place / "alone_instances")
    assert [outcome[f"one_{strategy}"]["epochs"] for outcome in outcomes] == [2, 2]


def test_adamw_in_bfloat16_trains_split_weights(outcomes: Any) -> None:
    first, second = outcomes[0]["adamw"]["loss"]
    assert second < first


def test_patience_ends_in_both(outcomes: Any) -> None:
    expected = {"epochs": 4, "early": True, "best": 0.6}
    for outcome in outcomes:
        assert {key: outcome["patience"][key] for key in expected} == expected


def test_an_error_is_told_once_and_ends_both(place: Path, outcomes: Any) -> None:
    """No deciding metric, known to the first process only; a loss that is no number, seen by the second only."""
    for name, text in (("nameless", "no 'score', which decides"), ("broken", "loss is nan at step 1")):
        first, second = (outcome[name] for outcome in outcomes)
        assert first["error"] == "AbbeError"
        assert text in first["text"]
        assert second == {"error": "SystemExit", "text": "2"}


def test_interrupt_of_a_validation_stops_both(place: Path, outcomes: Any) -> None:
    assert [outcome["cut"]["error"] for outcome in outcomes] == ["KeyboardInterrupt", "SystemExit"]
    assert last(place / "cut")["step"] == 3


def test_players_train_together(place: Path) -> None:
    weights = last(place / "players")["model"]
    assert (weights["up"] > 0).all()
    assert torch.equal(weights["up"], -weights["down"])


def test_what_cannot_be_split(together: ModuleType, tmp_path: Path) -> None:
    method = together.Pull()
    config = TrainConfig(**{**together.SETTINGS, "devices": 2, "strategy": "fsdp"})
    with pytest.raises(AbbeError, match="fsdp trains with one optimizer"):
        together.fit(method, together.fields(together.Instances()), None, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- the command line

PROGRAM = "from abbe.cli.main import main\n\nmain()\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``abbe`` is when it is installed: a file that can be run once more."""
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def words(program: Path, recipe: Path, data: Path, out: Path) -> list[str | Path]:
    short = ["--train.epochs", "1", "--train.accelerator", "cpu", "--train.batch_size", "4"]
    return [sys.executable, program, "train", recipe, "--data", data, "--out", out, *short]


def test_the_command_starts_its_own_helpers(program: Path, tiny_recipe: Path, annotated: Path, tmp_path: Path) -> None:
    command = [*words(program, tiny_recipe, annotated, tmp_path / "run"), "--devices", "2"]
    ((code, output, errors),) = finish(start(command, environment()))
    assert code == 0, errors
    assert output.count("model: ") == 1
    assert errors.count("training on 6 images") == 1
    assert "2 x cpu" in errors
    assert "Traceback" not in errors
    assert load_model(tmp_path / "run").name == "toy"
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert events == ["start", "epoch", "end"]


def test_ctrl_c_in_a_terminal_reaches_all_and_saves_once(
    program: Path, tiny_recipe: Path, annotated: Path, tmp_path: Path
) -> None:
    command = words(program, tiny_recipe, annotated, tmp_path / "run")
    process = start([*command, "--devices", "2", "--train.epochs", "100000"], environment())
    log, latest = tmp_path / "run" / "log.jsonl", time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < latest and not (log.exists() and '"epoch"' in log.read_text()):
        time.sleep(0.1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    ((code, output, errors),) = finish(process)
    assert (code, output) == (130, ""), errors
    step = last(tmp_path / "run")["step"]
    assert errors.count(f"stopped at step {step}; continue with --resume") == 1
    assert errors.count("stopped\n") == 1
    assert "Traceback" not in errors


def test_slurm_starts_a_process_on_each_of_two_machines(
    program: Path, tiny_recipe: Path, annotated: Path, tmp_path: Path
) -> None:
    """With the variables that ``srun --nodes 2 --ntasks-per-node 1`` sets; both machines are this one."""
    job = {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "abbe", "SLURM_NTASKS": 2, "SLURM_NNODES": 2, "SLURM_LOCALID": 0}
    job |= {"SLURM_NTASKS_PER_NODE": 1, "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [*words(program, tiny_recipe, annotated, tmp_path / "run"), "--nodes", "2"]
    tasks = ({"SLURM_PROCID": rank, "SLURM_NODEID": rank} for rank in range(2))
    (code, output, errors), second = finish(*(start(command, environment(**job, **task)) for task in tasks))
    assert code == 0, errors
    assert output.count("model: ") == 1
    assert second == (0, "", "")


def test_a_helper_that_fails_ends_the_run(program: Path, tmp_path: Path) -> None:
    """Its own sentence is seen, and the first process does not wait for it."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING, encoding="utf-8")
    command = [sys.executable, script, Path(__file__).with_name("together.py"), tmp_path / "run"]
    ((code, _, errors),) = finish(start(command, environment()))
    assert code != 0
    assert "plate7.tif: truncated" in errors


FAILING = """\
import os, runpy, sys

names = runpy.run_path(sys.argv[1], run_name="together")
from abbe.errors import AbbeError

class Broken(names["Instances"]):
    def training_step(self, batch, *, generator):
        if os.environ.get("LOCAL_RANK") == "1":
            raise AbbeError("plate7.tif: truncated")
        return super().training_step(batch, generator=generator)

names["METHODS"]["broken"] = Broken
names["train"]("broken", __import__("pathlib").Path(sys.argv[2]), devices=2)
"""
