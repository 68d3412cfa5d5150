"""The images of ``abbe demo``: stained tissue that comes with scikit-image, and a simulated fluorescence field."""

from __future__ import annotations

from pathlib import Path

import skimage.data
import tifffile

from abbe.data.synthetic import FluorescenceField, fluorescence_field
from abbe.data.write import atomic, write_png

PIXEL_SIZE = 0.5
"""µm, of the simulated field."""


def write_images(folder: Path) -> list[Path]:
    """Write both images and give their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tissue, field = folder / "ihc.png", folder / "fluorescence.tif"
    write_png(tissue, skimage.data.immunohistochemistry())
    simulated = fluorescence_field(FluorescenceField(shape=(768, 1024), pixel_size=PIXEL_SIZE, seed=1))
    with atomic(field) as beside:
        metadata = {"axes": "YX", "PhysicalSizeX": PIXEL_SIZE, "PhysicalSizeY": PIXEL_SIZE}
        tifffile.imwrite(beside, simulated.image, ome=True, metadata=metadata)
    return [tissue, field]
