"""Restoration of series by a network of stacks that was trained with times as its third axis (``data.depth``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from abbe.data.axes import LETTERS
from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.select import ALL, select
from abbe.data.times import exchanged, times_as_planes, with_times
from abbe.model import Model
from abbe.restoration import Restored, Restorer
from abbe.settings import RestoreSettings

IN_TIME = "CTYX"
"""Axes of a model that takes times as its third axis."""


class TimeRestorer(Restorer):
    """A model that sees all times of a series together."""

    order = exchanged(LETTERS)

    def restore(
        self,
        image: Any,
        settings: RestoreSettings,
        *,
        work: Path | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Restored:
        """Restore a series; see :meth:`Restorer.restore`. What comes out is told plane by plane."""
        opened = with_times(image if isinstance(image, Image) else read(image, axes=settings.axes))
        stacked = dataclasses.replace(settings, axes=None, time=settings.z, z=settings.time)
        found = super().restore(times_as_planes(opened), stacked, work=work, progress=progress)
        loops: dict[str, Any] = {"channel": ALL} if "C" in found.series.axes else {}
        loops |= {axis: ALL for axis in ("time", "z") if getattr(settings, axis) is None}
        series = select(opened, dataclasses.replace(settings, **loops))
        return dataclasses.replace(found, series=series, axes=exchanged(found.axes))


def restorer_for(model: Model) -> Restorer:
    """Give what applies a model of restoration, with times where it has learnt from them.

    Raises
    ------
    AbbeError
        When the model restores nothing.
    """
    return (TimeRestorer if model.description.axes == IN_TIME else Restorer)(model)
