"""The processes of one training: how many, which of them leads, and how they come to agree.

Each device has a process. The first one leads: it alone prints, writes and validates. Whatever changes the course of
the run (Ctrl-C, the time to save, patience, an error) is agreed upon, for a process that stops alone leaves the others
waiting for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from abbe.errors import AbbeError
from abbe.train.recipe import TrainConfig

LONGEST_VALIDATION = timedelta(hours=24)
"""How long processes wait for the first one to validate; gradients have the shorter time limit of the strategy."""

Value = TypeVar("Value")


class Processes:
    """This process among those that train together; alone with ``devices`` and ``nodes`` of 1.

    Parameters
    ----------
    config
        How many processes there shall be.

    Raises
    ------
    AbbeError
        When torchrun, Slurm or another launcher has started another number of processes.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.world = config.processes
        self.environment = _find_environment(config)
        self.rank = _find_rank(self.environment, config.devices) if self.world > 1 else 0
        self._group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process prints, writes and validates."""
        return self.rank == 0

    @property
    def is_helper(self) -> bool:
        """Whether this process was started for the training only and has nothing to do afterwards."""
        launched = isinstance(self.environment, LightningEnvironment)
        return self.world > 1 and launched and self.environment.local_rank() > 0

    def connect(self) -> None:
        """Open a connection beside that of the gradients; GPUs need not be waited for where flags are exchanged."""
        if self.world > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_VALIDATION)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Find out for each flag whether a process has raised it."""
        if self.world == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX, group=self._group)
        return tuple(map(bool, raised.tolist()))

    def first(self, value: Value) -> Value:
        """Give the value that the leading process has."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """Give the values of all processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average a floating-point tensor over the processes, on its device."""
        if self.world == 1:
            return tensor
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.world

    def mean_losses(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Average losses, of which all processes have the same, with one exchange."""
        if self.world == 1 or not losses:
            return losses
        names = sorted(losses)
        return dict(zip(names, self.mean(torch.stack([losses[name] for name in names])).unbind(), strict=True))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Mark what goes wrong in all processes or in none, for one of them to tell it."""
        try:
            yield
        except AbbeError:
            if self.leads:
                raise
            self.leave(2)

    def leave(self, code: int) -> NoReturn:
        """End this process without a word; the leading one tells why.

        A helper's code is 0: Lightning kills the leading process, before it can tell, when a helper's is another.
        """
        raise SystemExit(0 if self.is_helper else code)


def _find_environment(config: TrainConfig) -> ClusterEnvironment:
    """Find out who starts the processes: torchrun, Slurm, LSF, MPI, or else Lightning or the user."""
    if config.processes == 1:
        return LightningEnvironment()  # one of many single trainings under Slurm does not know of the others
    try:
        environment = _detect()
        found = environment.world_size()
        environment.validate_settings(config.devices, config.nodes)
    except (RuntimeError, ValueError) as error:
        raise _misfit(config, str(error)) from error
    if not isinstance(environment, LightningEnvironment) and found != config.processes:
        name = type(environment).__name__.removesuffix("Environment")
        raise _misfit(config, f"{name} has started {found}; under Slurm, use srun with --ntasks-per-node")
    return environment


def _detect() -> ClusterEnvironment:
    """Do as Lightning does, but let Slurm start no job again: whoever wants that calls --resume."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return next((kind() for kind in (LSFEnvironment, MPIEnvironment) if kind.detect()), LightningEnvironment())


def _misfit(config: TrainConfig, reason: str) -> AbbeError:
    return AbbeError(
        f"--devices {config.devices} and --nodes {config.nodes} need {config.processes} processes, but {reason}"
    )


def _find_rank(environment: ClusterEnvironment, devices: int) -> int:
    if isinstance(environment, LightningEnvironment):  # it learns its global rank later
        return environment.node_rank() * devices + environment.local_rank()
    return environment.global_rank()
