"""Who started the processes of a training, and what is refused before they wait for one another."""

from __future__ import annotations

import os

import pytest

from abbe.errors import AbbeError
from abbe.train.processes import Processes
from abbe.train.recipe import TrainConfig

ELASTIC = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM", "TORCHELASTIC")) or name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)


def config(devices: int, nodes: int) -> TrainConfig:
    return TrainConfig(batch_size=devices * nodes, devices=devices, nodes=nodes)


def set_all(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_one_process_is_alone_whatever_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many trainings on one device each, side by side in one Slurm job, are no training on many devices."""
    set_all(monkeypatch, SLURM_NTASKS=8, SLURM_PROCID=5, SLURM_LOCALID=5, SLURM_NODEID=0, RANK=5)
    alone = Processes(config(1, 1))
    assert (alone.leads, alone.world, alone.is_helper) == (True, 1, False)
    assert alone.any(True, False) == (True, False)
    assert (alone.first("a"), alone.gather("a")) == ("a", ["a"])


def test_machines_that_the_user_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for node in range(2):
        for local in range(3):
            set_all(monkeypatch, NODE_RANK=node, LOCAL_RANK=local)
            process = Processes(config(3, 2))
            found.append((process.rank, process.is_helper))
    assert found == [(0, False), (1, True), (2, True), (3, False), (4, True), (5, True)]


def test_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **ELASTIC, WORLD_SIZE=8, RANK=6, LOCAL_RANK=2, GROUP_RANK=1)
    process = Processes(config(4, 2))
    assert (process.rank, process.world, process.leads, process.is_helper) == (6, 8, False, False)
    with pytest.raises(AbbeError, match=r"--devices 2 and --nodes 2 need 4 processes, but .*8"):
        Processes(config(2, 2))


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_JOB_NAME": "abbe", "SLURM_JOB_ID": 7, "SLURM_NTASKS": 8, "SLURM_NNODES": 2, "SLURM_LOCALID": 3}
    set_all(monkeypatch, **job, SLURM_NTASKS_PER_NODE=4, SLURM_PROCID=7, SLURM_NODEID=1)
    assert Processes(config(4, 2)).rank == 7
    with pytest.raises(AbbeError, match=r"--devices 8 and --nodes 1 need 8 processes"):
        Processes(config(8, 1))


def test_slurm_without_srun_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch script is one task; its command would wait for seven others that nobody starts."""
    set_all(monkeypatch, SLURM_JOB_NAME="abbe", SLURM_NTASKS=1, SLURM_PROCID=0, SLURM_LOCALID=0, SLURM_NODEID=0)
    with pytest.raises(AbbeError, match="SLURM has started 1; under Slurm, use srun with --ntasks-per-node"):
        Processes(config(4, 2))
