"""Objects as outlines for other programs: ImageJ's ROI zips and GeoJSON for QuPath.

Outlines follow the edges of the pixels exactly. Their coordinates are (x, y) of pixel corners, as both
programs mean them: pixel (row 0, column 0) is the square from (0, 0) to (1, 1), and reading what was
written gives the same pixels. An object with holes, or of several parts that share no side, is one
composite ROI, or a polygon with holes. Stacks and series are drawn plane by plane.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import roifile
from scipy import ndimage

from abbe.data.write import atomic, label_axes, write_text
from abbe.errors import AbbeError
from abbe.ops.labels import LabelImage, largest_label, relabel

_AREAS = (
    roifile.ROI_TYPE.POLYGON,
    roifile.ROI_TYPE.FREEHAND,
    roifile.ROI_TYPE.TRACED,
    roifile.ROI_TYPE.RECT,
    roifile.ROI_TYPE.OVAL,
)
# Operations in ImageJ's composite ROIs, those of java.awt.geom.PathIterator.
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
_LARGEST = 32767  # ImageJ keeps whole coordinates in 16 bits with a sign


class Part(NamedTuple):
    """A part of an object whose pixels share sides."""

    outer: np.ndarray
    """(n, 2) corners (x, y) in order; the last one is joined to the first."""
    holes: list[np.ndarray]
    """The same for each hole."""


# --- tracing --------------------------------------------------------------------------------------


def outlines(labels: np.ndarray) -> Iterator[tuple[int, list[Part]]]:
    """Trace every object of a 2-D label image along the edges of its pixels.

    Yields
    ------
    tuple
        Label and parts, in the order of the labels.

    Raises
    ------
    ValueError
        If the image is not 2-D or the values are no labels.
    """
    if labels.ndim != 2:
        raise ValueError(f"labels of shape {labels.shape}; outlines are drawn of 2-D labels")
    numbers, _ = relabel(labels)
    for number, window in enumerate(ndimage.find_objects(numbers), start=1):
        mask = numbers[window] == number
        offset = np.array([window[1].start, window[0].start])
        parts = [Part(outer + offset, [hole + offset for hole in holes]) for outer, holes in _parts(mask)]
        yield int(labels[window].ravel()[mask.argmax()]), parts


def _parts(mask: np.ndarray) -> list[Part]:
    """Trace one object and sort its rings into parts with their holes."""
    rings = [simple for ring in _rings(mask) for simple in _simple_rings(ring)]
    if len(rings) == 1:
        return [Part(rings[0], [])]
    components, n = ndimage.label(mask)
    outer: list[np.ndarray] = [np.empty((0, 2))] * n
    holes: list[list[np.ndarray]] = [[] for _ in range(n)]
    for ring in rings:
        # Below the leftmost corner of its top row lies a pixel that the ring encloses.
        x, y = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]
        if mask[y, x]:
            outer[components[y, x] - 1] = ring
        else:
            holes[components[y - 1, x] - 1].append(ring)
    return [Part(ring, inner) for ring, inner in zip(outer, holes)]


def _rings(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Walk along the edges of the pixels, from corner to corner, alternately along a row and along a column.

    In each row of corners the first is joined to the second, the third to the fourth, and so on, likewise
    in each column: between them the edge of the object runs, beyond them it does not.
    """
    x, y, second_in_row, second_in_column = _corners(mask)
    along_row = _partners(np.lexsort((second_in_row, x, y)))
    along_column = _partners(np.lexsort((second_in_column, y, x)))
    points = np.stack([x, y], axis=1)
    pending = [True] * len(points)
    for start in range(len(points)):
        ring = []
        here = start
        while pending[here]:
            across = along_row[here]
            pending[here] = pending[across] = False
            ring += [here, across]
            here = along_column[across]
        if ring:
            yield points[ring]


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find where the outline turns: x, y, and the order among two corners at one point.

    Where two pixels of the object touch only at a point, two corners lie there, one for each pixel.
    """
    padded = np.pad(mask, 1)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    y, x = np.nonzero(above_left ^ above_right ^ below_left ^ below_right)
    crossing = (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    cross_y, cross_x = np.nonzero(crossing)
    # The first corner turns from the edge on the left, upwards if the upper left pixel is the object's.
    downwards = ~above_left[cross_y, cross_x]
    none, first, last = (
        np.full(n, value) for n, value in ((len(y), False), (len(cross_y), False), (len(cross_y), True))
    )
    return (
        np.concatenate([x, cross_x, cross_x]),
        np.concatenate([y, cross_y, cross_y]),
        np.concatenate([none, first, last]),
        np.concatenate([none, downwards, ~downwards]),
    )


def _partners(order: np.ndarray) -> list[int]:
    """For each corner the other end of its edge, when the ordered corners are joined in pairs."""
    partners = np.empty_like(order)
    partners[order[0::2]], partners[order[1::2]] = order[1::2], order[0::2]
    return partners.tolist()


def _simple_rings(ring: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a ring where it meets itself: polygons whose rings touch themselves are not valid elsewhere."""
    points = list(map(tuple, ring.tolist()))
    if len(set(points)) == len(points):
        yield ring
        return
    open_points: list[tuple[int, int]] = []
    for point in points:
        if point in open_points:
            cut = open_points.index(point)
            yield np.array(open_points[cut:])
            del open_points[cut:]
        open_points.append(point)
    yield np.array(open_points)


# --- writing --------------------------------------------------------------------------------------


def write_imagej_rois(path: str | Path, labels: LabelImage, overwrite: bool = True, *, axes: str | None = None) -> Path:
    """Write a zip for ImageJ's ROI manager, one ROI per object, named by its label.

    Of stacks and series there is one ROI per object and plane, which says its plane; the name says it too, counted
    from 1 as in ImageJ: ``07-t02-z11``.

    Parameters
    ----------
    path
        The file, ending in .zip.
    labels
        (Y, X), (Z, Y, X) or (T, Z, Y, X), non-negative integers.
    overwrite
        Replace an older file.
    axes
        Letters of the axes; must be given for (T, Y, X).

    Raises
    ------
    AbbeError
        If the image is wider or higher than 32767 pixels, which ImageJ's format cannot say, if its axes are
        others, or if the file cannot be written.
    """
    planes = _planes(path, labels, axes)
    if max(labels.shape[-2:]) > _LARGEST:
        raise AbbeError(f"{path}: cannot be written, ImageJ ROIs reach {_LARGEST} pixels and the image {labels.shape}")
    digits = [len(str(largest)) for largest in (largest_label(labels), *labels.shape[:-2])]
    with (
        atomic(path, overwrite) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for place, plane in planes:
            counts = [f"-{axis}{index + 1:0{n}d}" for (axis, index), n in zip(place.items(), digits[1:])]
            for label, parts in outlines(plane):
                name = "".join((f"{label:0{digits[0]}d}", *counts))
                archive.writestr(f"{name}.roi", _roi(name, parts, place).tobytes())
    return Path(path)


def _planes(path: str | Path, labels: LabelImage, axes: str | None) -> Iterator[tuple[dict[str, int], np.ndarray]]:
    """Give the planes of a label image one by one, each with its index along "t" and "z", where there are such."""
    if labels.dtype.kind not in "iub":
        raise AbbeError(f"{path}: cannot be written, outlines are drawn of whole numbers, not of {labels.dtype}")
    outer = label_axes(path, labels.shape, axes)[:-2].lower()
    return ((dict(zip(outer, index)), np.asarray(labels[index])) for index in np.ndindex(labels.shape[:-2]))


def _roi(name: str, parts: list[Part], place: dict[str, int]) -> roifile.ImagejRoi:
    """One object as a traced ROI, or as a composite one if a single ring does not say it."""
    rings = [ring for part in parts for ring in (part.outer, *part.holes)]
    corners = np.concatenate(rings)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    roi = roifile.ImagejRoi(name=name, left=left, top=top, right=right, bottom=bottom)
    roi.c_position, roi.z_position, roi.t_position = (place[axis] + 1 if axis in place else 0 for axis in "czt")
    if len(place) == 1:  # a stack of one axis is no hyperstack to ImageJ, which then looks for the number of the plane
        roi.position = roi.c_position + roi.z_position + roi.t_position
    if len(rings) == 1:
        roi.roitype = roifile.ROI_TYPE.TRACED
        roi.integer_coordinates = (corners - [left, top]).astype(np.int32)
        roi.n_coordinates = len(corners)
    else:
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings])
        roi.shape_roi_size = len(roi.multi_coordinates)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    """Operations and coordinates of one closed ring in a composite ROI."""
    operations = np.full((len(ring), 1), _LINE)
    operations[0] = _MOVE
    return np.append(np.hstack([operations, ring]).ravel(), _CLOSE).astype(np.float32)


def write_geojson(path: str | Path, labels: LabelImage, overwrite: bool = True, *, axes: str | None = None) -> Path:
    """Write outlines for QuPath: a GeoJSON FeatureCollection of detections in pixels, named by their labels.

    Of stacks and series there is one detection per object and plane; its geometry's ``plane`` says which.

    Parameters
    ----------
    path
        The file, ending in .geojson.
    labels
        (Y, X), (Z, Y, X) or (T, Z, Y, X), non-negative integers.
    overwrite
        Replace an older file.
    axes
        Letters of the axes; must be given for (T, Y, X).

    Raises
    ------
    AbbeError
        If the axes are others, or the file cannot be written.
    """
    planes = _planes(path, labels, axes)
    features = [_feature(label, parts, place) for place, plane in planes for label, parts in outlines(plane)]
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
    return write_text(path, text, overwrite)


def _feature(label: int, parts: list[Part], place: dict[str, int]) -> dict[str, Any]:
    """One object: outer rings counterclockwise in (x, y), holes clockwise, as RFC 7946 wants them."""
    polygons = [[_closed(part.outer, 1), *(_closed(hole, -1) for hole in part.holes)] for part in parts]
    geometry: dict[str, Any] = (
        {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) == 1
        else {"type": "MultiPolygon", "coordinates": polygons}
    )
    if place:
        geometry["plane"] = {"z": 0, "t": 0} | place
    properties = {"objectType": "detection", "name": str(label), "measurements": {"Label": label}}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _closed(ring: np.ndarray, turn: int) -> list[list[int]]:
    """Repeat the first corner at the end, and turn the ring so that the sign of its area is ``turn``."""
    x, y = ring.T
    area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    corners = ring.tolist() if area * turn > 0 else ring[::-1].tolist()
    return [*corners, corners[0]]


# --- reading --------------------------------------------------------------------------------------


def read_imagej_rois(path: str | Path, shape: Sequence[int]) -> np.ndarray:
    """Draw the ROIs of a zip, or of a single .roi file, as labels.

    A pixel belongs to the ROI that its centre lies in, as in ImageJ; where ROIs overlap, to the later
    one. Polygons, freehand and traced outlines, rectangles, ovals and composites count; what lies outside
    of the image is cut off.

    Parameters
    ----------
    path
        The file.
    shape
        (Y, X) of the image.

    Returns
    -------
    np.ndarray
        (Y, X), int32; the first ROI is 1. One that covers no pixel leaves its number unused.

    Raises
    ------
    AbbeError
        If the file is no ROI file, or holds a line or point, which has no area.
    """
    path = Path(path)
    labels = np.zeros((shape[0], shape[1]), np.int32)
    for number, roi in enumerate(_load(path), start=1):
        if roi.roitype not in _AREAS:
            raise AbbeError(f"{path.name}: ROI {roi.name or number} is a {roi.roitype.name.lower()}, which has no area")
        _draw(labels, roi, number)
    return labels


def _load(path: Path) -> list[roifile.ImagejRoi]:
    """Read all ROIs of a file, in the order of the file."""
    try:
        if not zipfile.is_zipfile(path):
            return [roifile.ImagejRoi.frombytes(path.read_bytes())]
        with zipfile.ZipFile(path) as archive:
            # macOS adds files of its own to zips.
            names = [name for name in archive.namelist() if name.endswith(".roi") and "__MACOSX" not in name]
            return [roifile.ImagejRoi.frombytes(archive.read(name)) for name in names]
    except (OSError, zipfile.BadZipFile) as error:
        raise AbbeError(f"{path}: cannot be read ({error})") from error
    except Exception as error:  # roifile has no error of its own
        raise AbbeError(f"{path.name}: is not a file of ImageJ ROIs ({error})") from error


def _draw(labels: np.ndarray, roi: roifile.ImagejRoi, number: int) -> None:
    """Set the pixels of one ROI."""
    if roi.roitype == roifile.ROI_TYPE.OVAL:
        window, mask = _oval(_box(roi), labels.shape)
    elif roi.roitype == roifile.ROI_TYPE.RECT and not roi.composite:
        left, top, right, bottom = _box(roi)
        window, mask = fill([np.array([(left, top), (right, top), (right, bottom), (left, bottom)])], labels.shape)
    else:
        window, mask = fill(list(roi.coordinates(multi=True)), labels.shape)
    labels[window][mask] = number


def _box(roi: roifile.ImagejRoi) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a rectangle or oval."""
    if roi.subpixelrect:
        return roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    return roi.left, roi.top, roi.right, roi.bottom


def _oval(box: tuple[float, float, float, float], shape: Sequence[int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Pixels whose centres lie in the ellipse that fills a box."""
    left, top, right, bottom = box
    rows = np.arange(max(int(top), 0), min(int(np.ceil(bottom)), shape[0]))
    columns = np.arange(max(int(left), 0), min(int(np.ceil(right)), shape[1]))
    v = (rows + 0.5 - (top + bottom) / 2) / max((bottom - top) / 2, 1e-9)
    u = (columns + 0.5 - (left + right) / 2) / max((right - left) / 2, 1e-9)
    window = (_span(rows), _span(columns))
    return window, v[:, None] ** 2 + u**2 <= 1


def _span(indices: np.ndarray) -> slice:
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)


def fill(rings: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Find the pixels whose centres lie inside rings, by the even-odd rule.

    Parameters
    ----------
    rings
        Each (n, 2), corners (x, y), closed or not; a ring inside a ring is a hole.
    shape
        (Y, X) of the image, at which the result is cut off.

    Returns
    -------
    tuple
        The part of the image that the rings span, two slices, and the bool mask in it.
    """
    starts = np.concatenate(rings).astype(float)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings]).astype(float)
    low = np.clip(np.floor(starts.min(axis=0)), 0, (shape[1], shape[0])).astype(int)
    high = np.clip(np.ceil(starts.max(axis=0)), low, (shape[1], shape[0])).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    toggles = np.zeros((bottom - top, right - left + 1), np.int32)
    x, row = _crossings(starts, ends, top, bottom)
    column = np.clip(np.ceil(x - 0.5).astype(int) - left, 0, right - left)
    np.add.at(toggles, (row - top, column), 1)
    # Right of an odd number of crossings is inside.
    mask = np.cumsum(toggles[:, :-1], axis=1) % 2 == 1
    return (slice(top, bottom), slice(left, right)), mask


def _crossings(starts: np.ndarray, ends: np.ndarray, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """Where edges cross the middle of the pixel rows between top and bottom: x, and the row."""
    upper, lower = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    first = np.clip(np.ceil(upper - 0.5), top, bottom).astype(int)
    last = np.clip(np.ceil(lower - 0.5), top, bottom).astype(int)  # exclusive
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
    return x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0), row
