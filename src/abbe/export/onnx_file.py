"""ONNX: a graph that ONNX Runtime and most other engines run, written by the exporter that PyTorch has.

Named outputs, dynamic batch and, where the network takes any size, dynamic extents; what else a reader needs is in the
metadata under ``abbe.…``. The file is one: ONNX keeps at most two gigabytes in it, and larger networks are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abbe.errors import AbbeError
from abbe.export.subject import Subject
from abbe.export.verify import Run, quiet, simulate

OPSET = 18
"""In which PyTorch's exporter writes natively, and old enough for the engines in use."""
LARGEST = 500_000_000
"""Parameters, of four bytes each, that fit into the two gigabytes of one file."""


def require_onnx() -> None:
    """Refuse where the packages are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise AbbeError(f"an export to ONNX needs more packages ({error}); pip install 'abbe[export]'") from error


def tell_onnxruntime() -> str:
    """Name the engine of the check."""
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__}"


def write_onnx(subject: Subject, paths: Sequence[Path], free: bool) -> Run:
    """Write the file, and give what runs it.

    Parameters
    ----------
    subject
        What to write.
    paths
        One file.
    free
        Leave the extents open; otherwise only the batch.

    Raises
    ------
    AbbeError
        When the network is too large for one file.
    """
    if subject.parameters > LARGEST:
        raise AbbeError(
            f"{subject.name}: {subject.parameters / 1e6:.0f} M parameters are more than the two gigabytes of an ONNX "
            "file; use --to openvino"
        )
    with quiet():
        program = _converted(subject, free)
    program.model.metadata_props.update(subject.facts())
    program.save(str(paths[0]), external_data=False)
    return run_onnx(paths[0])


def run_onnx(source: Path | bytes) -> Run:
    """Load a file, or its bytes, into ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # an input that does not fit is told by the exception
    given = source if isinstance(source, bytes) else str(source)
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    entrance = session.get_inputs()[0].name

    def run(x: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {entrance: x})

    return run


def _converted(subject: Subject, free: bool) -> Any:
    example = torch.from_numpy(simulate(subject, 2, subject.extents).ready)  # of a batch of 1 torch makes a constant
    names = {0: "batch"}
    if free:
        first = example.ndim - len(subject.axes)
        names |= {first + place: axis for place, axis in enumerate(subject.axes)}
    dynamic = dict.fromkeys(names, torch.export.Dim.DYNAMIC)
    captured = torch.export.export(subject.graph, (example,), dynamic_shapes=(dynamic,), strict=False)
    return torch.onnx.export(
        captured,
        dynamo=True,
        input_names=[subject.input_name],
        output_names=list(subject.outputs),
        dynamic_shapes=(names,),
        opset_version=OPSET,
        verbose=False,
    )
