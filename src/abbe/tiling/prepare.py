"""A method made ready to run fast: done once, before the first tile.

Folded batch norm, channels-last memory, bfloat16 where the processor computes in it, and OpenVINO where it is
installed (``pip install 'abbe[fast]'``). ``precision="exact"`` is none of that: the plain float32 forward.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from abbe.contract import Geometry, Method
from abbe.errors import AbbeError
from abbe.nn.fold import fold_batch_norm
from abbe.nn.memory import tune_allocator
from abbe.tiling.grid import fit

Precision = Literal["auto", "bfloat16", "float32", "exact"]
Backend = Literal["auto", "torch", "openvino"]
Maps = dict[str, np.ndarray]
LARGE = 2**20
"""Values in windows that take far longer to compute than a network to compile."""
logger = logging.getLogger(__name__)


class Predictor:
    """``predict`` of a method, prepared for a device.

    Parameters
    ----------
    method
        It is copied, never changed.
    device
        "auto", "cpu", "cuda" or "mps".
    precision
        auto: bfloat16 where the processor computes in it, else float32; exact: the plain forward.
    backend
        auto: OpenVINO on a CPU where it is installed, else torch; exact precision is always torch.

    Attributes
    ----------
    method : Method
        What it was prepared from.
    device, precision, backend : str
        What was chosen.
    """

    def __init__(
        self,
        method: Method,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        backend: Backend = "auto",
    ):
        self.method = method
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.backend = choose_backend(backend, self.device, self.precision, traceable(method))
        tune_allocator()
        self.limit: int | None = None
        self._compute = self._openvino(method) if self.backend == "openvino" else self._torch(method)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the plain method; it is prepared again where it arrives."""
        return partial(Predictor, device=self.device, precision=self.precision, backend=self.backend), (self.method,)

    def __call__(self, windows: np.ndarray) -> Maps:
        """Compute maps (B, K, [Z,] Y, X), float32, of windows (B, C, [Z,] Y, X), in parts if memory is short.

        Windows of one channel are repeated for a network that takes more.
        """
        start, parts = 0, []
        while start < len(windows):
            size = min(self.limit or len(windows), len(windows) - start)
            try:
                parts.append(self._compute(windows[start : start + size]))
                start += size
            except torch.OutOfMemoryError:
                self._shrink(size)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _shrink(self, size: int) -> None:
        """Halve the batch, and say so."""
        if size == 1:
            raise AbbeError(f"out of memory on {self.device} with a single tile; choose a smaller one with --tile")
        self.limit = size // 2
        logger.warning("out of memory on %s with %d tiles at once; going on with %d", self.device, size, self.limit)
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _torch(self, method: Method) -> Callable[[np.ndarray], Maps]:
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        spatial = len(method.geometry.multiple)
        channels_last = torch.channels_last if spatial == 2 else torch.channels_last_3d
        layout = torch.contiguous_format if self.precision == "exact" else channels_last
        ready: Any = prepared_copy(method, fold=self.precision != "exact")
        ready = ready.to(self.device, dtype)
        if self.precision != "exact":
            ready = ready.to(memory_format=layout)

        @torch.inference_mode()
        def compute(windows: np.ndarray) -> Maps:
            x = torch.from_numpy(windows).to(self.device, dtype)
            channels = method.in_channels if x.shape[1] == 1 else -1
            x = x.expand(-1, channels, *[-1] * spatial).contiguous(memory_format=layout)
            return {name: maps.float().cpu().numpy() for name, maps in ready.predict(x).items()}

        return compute

    def _openvino(self, method: Method) -> Callable[[np.ndarray], Maps]:
        import openvino

        maps = _NamedMaps(prepared_copy(method, fold=True))
        channels, spatial = _in_channels(maps), len(method.geometry.multiple)
        example = torch.zeros(1, channels, *_example_extents(method.geometry))
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of what is fixed by design, such as checks of extents
            maps(example)
            converted = openvino.convert_model(maps, example_input=example, input=[-1, channels, *[-1] * spatial])
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = _Compiled(converted, settings)

        def compute(windows: np.ndarray) -> Maps:
            grey = windows.shape[1] == 1
            outputs = compiled(np.repeat(windows, channels, axis=1) if grey and channels > 1 else windows)
            return {name: outputs[i] for i, name in enumerate(maps.names)}

        return compute


class _Compiled:
    """An OpenVINO network; compiled for one shape of windows it is a tenth faster than for any.

    Large windows are worth that at once, small ones when their shape comes again. The bits are the same either way,
    so a tile does not depend on what came before it.
    """

    def __init__(self, network: Any, settings: dict[str, Any]):
        import openvino

        self.network, self.settings, self.core = network, settings, openvino.Core()
        self.flexible = self._compile(network)
        self.fixed: Any = None
        self.last: tuple[int, ...] = ()
        """Shape of the windows before; that for which ``fixed`` is compiled, where it is."""

    def __call__(self, windows: np.ndarray) -> Any:
        if windows.shape != self.last:
            self.last, self.fixed = windows.shape, None
            if windows.size < LARGE:
                return self.flexible(windows)
        if self.fixed is None:
            network = self.network.clone()
            network.reshape(list(windows.shape))
            self.fixed = self._compile(network)
        return self.fixed(windows)

    def _compile(self, network: Any) -> Any:
        return self.core.compile_model(network, "CPU", self.settings)


class _NamedMaps(nn.Module):
    """``predict`` as a forward that gives a tuple; the names are kept beside it."""

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method = method
        self.names: tuple[str, ...] = ()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps: dict[str, torch.Tensor] = self.method.predict(x)  # type: ignore[operator]
        self.names = tuple(maps)
        return tuple(maps.values())


def prepared_copy(method: Method, *, fold: bool) -> nn.Module:
    """Copy a method for inference, with batch norm folded if asked."""
    assert isinstance(method, nn.Module)
    ready = copy.deepcopy(method).eval().requires_grad_(False)
    return fold_batch_norm(ready) if fold else ready


def traceable(method: Method) -> bool:
    """Tell whether what was recorded at some extents holds at others; networks that do not have ``traceable`` False."""
    assert isinstance(method, nn.Module)
    return all(getattr(module, "traceable", True) for module in method.modules())


def choose_device(name: str) -> str:
    """Resolve "auto" to the best device at hand; refuse one that is not there."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if here[device])
    if name not in here:
        raise AbbeError(f"no device is called {name!r}; choose auto, cpu, cuda or mps")
    if not here[name]:
        raise AbbeError(f"device {name!r} is not available here; `abbe doctor` lists what is")
    return name


def choose_precision(precision: Precision, device: str) -> Precision:
    """Resolve "auto" to bfloat16 where it is computed natively, else to float32."""
    if precision not in get_args(Precision):
        raise AbbeError(f"no precision is called {precision!r}; choose {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision
    return "bfloat16" if computes_bfloat16(device) else "float32"


def computes_bfloat16(device: str) -> bool:
    """Tell whether a device multiplies in bfloat16 rather than emulating it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


def choose_backend(backend: Backend, device: str, precision: Precision, traced: bool = True) -> Backend:
    """Resolve "auto" to OpenVINO on a CPU where it is installed; exact precision, and what cannot be traced, stay."""
    if backend not in get_args(Backend):
        raise AbbeError(f"no backend is called {backend!r}; choose {', '.join(get_args(Backend))}")
    if precision == "exact" or device != "cpu":
        return "torch"
    if not traced:
        if backend == "openvino":
            raise AbbeError("backend 'openvino' cannot run this network at other extents than one; choose torch")
        return "torch"
    if backend == "auto":
        return "openvino" if importlib.util.find_spec("openvino") else "torch"
    if backend == "openvino" and not importlib.util.find_spec("openvino"):
        raise AbbeError("backend 'openvino' is not installed; pip install 'abbe[fast]'")
    return backend


def _example_extents(geometry: Geometry) -> list[int]:
    """Find small extents that the network takes; an unpadded one needs more than it loses, others have one size."""
    if geometry.halo is None:
        return list(geometry.multiple)
    lost = geometry.halo if geometry.crops and geometry.halo else [0] * len(geometry.multiple)
    return [
        fit(2 * halo + 4 * multiple, multiple, remainder)
        for halo, multiple, remainder in zip(lost, geometry.multiple, geometry.remainder, strict=True)
    ]


def _in_channels(module: nn.Module) -> int:
    """Channels that the network takes, as its config says."""
    return int(module.method.in_channels)  # type: ignore[union-attr,arg-type]
