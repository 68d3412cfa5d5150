"""OpenVINO: the graph as ``.xml`` and its float32 weights as ``.bin`` beside it, for Intel's engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from abbe.errors import AbbeError
from abbe.export.subject import Subject
from abbe.export.verify import Run, quiet, simulate


def require_openvino() -> None:
    """Refuse where the package is missing."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise AbbeError(f"an export to OpenVINO needs one more package ({error}); pip install 'abbe[fast]'") from error


def tell_openvino() -> str:
    """Name the engine of the check."""
    import openvino

    return f"OpenVINO {openvino.__version__.partition('-')[0]}"


def write_openvino(subject: Subject, paths: Sequence[Path], free: bool) -> Run:
    """Write both files, and give what runs them.

    Parameters
    ----------
    subject
        What to write.
    paths
        The ``.xml`` and the ``.bin``.
    free
        Leave the extents open; otherwise only the batch.
    """
    import openvino

    graph, (network, weights) = subject.graph, paths
    example = torch.from_numpy(simulate(subject, 2, subject.extents).ready)
    behind = len(subject.axes)
    shape = [-1, *example.shape[1:-behind], *([-1] * behind if free else example.shape[-behind:])]
    with quiet(), torch.inference_mode():
        converted = openvino.convert_model(graph, example_input=example, input=shape)
    converted.inputs[0].get_tensor().set_names({subject.input_name})
    for output, name in zip(converted.outputs, subject.outputs, strict=True):
        output.get_tensor().set_names({name})
    for key, value in subject.facts().items():
        converted.set_rt_info(value, key.split("."))
    openvino.serialize(converted, str(network), str(weights))
    return run_openvino(network, weights)


def run_openvino(network: Path, weights: Path) -> Run:
    """Load the files into OpenVINO on the CPU, in float32."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(str(network), str(weights)), "CPU", settings)

    def run(x: np.ndarray) -> list[np.ndarray]:
        outputs = compiled(x)
        return [outputs[place] for place in range(len(compiled.outputs))]

    return run
