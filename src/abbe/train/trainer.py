"""Lightning's Trainer as we use it, for one process or many."""

from __future__ import annotations

import logging
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from abbe.errors import AbbeError
from abbe.train.processes import Processes
from abbe.train.recipe import TrainConfig

_LIGHTNING_PRECISION = {"bfloat16": "bf16-mixed", "float32": "32-true"}
SECONDS_TO_LEAVE = 10.0


def splits_weights(config: TrainConfig) -> bool:
    """Whether each process holds a part of the weights only."""
    return config.processes > 1 and config.strategy == "fsdp"


def check_devices(config: TrainConfig, accelerator: str, method: Any) -> None:
    """Refuse what cannot work, before anything is begun.

    Raises
    ------
    AbbeError
        When there are fewer devices than asked for, or adversaries shall be trained with split weights.
    """
    if accelerator == "mps" and config.processes > 1:
        raise AbbeError("train.devices: a Mac trains on one device; choose train.devices=1 or train.accelerator=cpu")
    if accelerator in ("cuda", "gpu") and config.devices > torch.cuda.device_count():
        raise AbbeError(f"train.devices: {config.devices} asked for, this machine has {torch.cuda.device_count()} GPUs")
    if splits_weights(config) and hasattr(method, "players"):
        raise AbbeError("train.strategy: fsdp trains with one optimizer, this method has several; choose ddp")


def build_trainer(
    config: TrainConfig,
    method: Any,
    processes: Processes,
    accelerator: str,
    precision: str,
    callback: lightning.Callback,
    folder: Path,
) -> lightning.Trainer:
    """Make a Trainer that does the steps and leaves all else to ``callback``.

    Raises
    ------
    AbbeError
        In a notebook or console, from which the other processes cannot be started.
    """
    try:
        return lightning.Trainer(
            accelerator=accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=_strategy(config, method),
            plugins=[processes.environment],
            sync_batchnorm=config.processes > 1 and accelerator in ("cuda", "gpu"),  # torch has it for GPUs only
            precision=_LIGHTNING_PRECISION[precision],  # type: ignore[arg-type]
            max_epochs=1,  # epochs are the loop's own, so that a run can be resumed anywhere
            callbacks=[callback],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:
        raise AbbeError(f"training on {config.processes} devices cannot begin: {error}") from error


def _strategy(config: TrainConfig, method: Any) -> str | Strategy:
    if config.processes == 1:
        return "auto"
    if splits_weights(config):
        return ModelParallelStrategy(config.processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
    # each player's loss leaves the parameters of the others without a gradient
    return DDPStrategy(find_unused_parameters=hasattr(method, "players"))


@contextmanager
def ended_helpers(trainer: lightning.Trainer) -> Iterator[None]:
    """End the processes that Lightning has started when an error ends this one; they might wait for it forever."""
    try:
        yield
    except BaseException:
        started: list[subprocess.Popen[Any]] = getattr(trainer.strategy.launcher, "procs", [])
        helpers, latest = list(started), time.monotonic() + SECONDS_TO_LEAVE
        started.clear()  # Lightning watches this list and would kill the leading process when one of them has failed
        for helper in helpers:
            try:
                helper.wait(max(0.0, latest - time.monotonic()))
            except subprocess.TimeoutExpired:
                helper.kill()
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's banners, tips and advice for its own users away from ours."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            # DDP says this of 1x1 kernels that lie channels last, which lie in one order whatever their strides are
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
