"""The report: one HTML file that holds all it shows and asks nothing of a network.

Whatever comes from users, names of files and channels before all, is escaped; a content security policy forbids the
page to load or run anything but what was written into it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from abbe.data.write import write_text
from abbe.report import figures
from abbe.report.gallery import MAX_ITEMS, GalleryItem, data_uri
from abbe.report.images import IMAGE_COLUMNS, OF_VOLUMES, is_volumes, split_warnings
from abbe.report.objects import meaning_of

MAX_ROWS = 500
"""Images that the page's table lists; the rest is in the CSV file."""
MAX_FAILURES = 100
MAX_CHANNELS = 4
"""Channels whose intensity gets a histogram."""
SHOWN_COLUMNS = {
    "count": "objects",
    "density_per_mm2": "density",
    "median_area_um2": "median area",
    "foreground": "covered",
    "mean_intensity": "intensity",
    "touching_border": "at edge",
    "seconds": "time",
}
"""Columns of the page's table and their heads, where every pixel size is known."""
DEEP = {"depth": "planes", "frames": "frames"}
"""Columns that follow where an image has more than one."""
IN_PIXELS = {"density_per_mm2": "density_per_megapixel", "median_area_um2": "median_area"}
"""What takes their place where one is not: numbers in one column must be comparable."""


_GROUPS = {"worst": "To look at again", "typical": "Typical"}


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    """Plain text, escaped when the page is written."""
    html: str
    """Markup, taken as it is: whoever makes it escapes what users wrote."""


def write_report(
    path: str | Path,
    *,
    title: str,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    gallery: Sequence[GalleryItem] = (),
    provenance: Mapping[str, Any] | None = None,
    failures: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
    sections: Sequence[Section] = (),
) -> None:
    """Write the report of a run that found objects in images.

    Parameters
    ----------
    path
        The file; replaced whole or not at all.
    title
        Its headline.
    images
        Rows of :func:`abbe.report.images.image_row`; beyond 500 only the first, those with warnings before the
        others, are listed, and the page points to ``images.csv`` beside it.
    objects
        All tables of :func:`abbe.report.objects.objects_table`, or of :func:`abbe.report.volumes.volumes_table`,
        one below the other.
    gallery
        At most twelve pictures, see :func:`abbe.report.gallery.choose_gallery`; more are left out.
    provenance
        From :func:`abbe.report.provenance.provenance`.
    failures
        Pairs of file name and the sentence that says what was wrong with it.
    notes
        Sentences for the top of the page.
    links
        Where the overlay or mask of an image lies, relative to the page, by the image's name.
    sections
        More parts, after the figures.
    """
    parts = [
        gallery_section(gallery),
        _charts(images, objects),
        *sections,
        _image_table(images, links or {}),
        failures_section(failures),
    ]
    cards = _cards(images, objects, provenance, failures)
    write_page(
        path,
        title=title,
        sections=[part for part in parts if part is not None],
        cards=cards,
        notes=[*notes, *_about_pixel_size(images)],
        provenance=provenance,
        appendix=_columns(objects),
    )


def write_page(
    path: str | Path,
    *,
    title: str,
    sections: Sequence[Section],
    cards: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    appendix: str = "",
) -> None:
    """Write any page in the report's dress: evaluation and training use it too.

    Parameters
    ----------
    path, title, sections, notes, provenance
        As for :func:`write_report`.
    cards
        Headline figures: pairs of caption and value, plain text.
    appendix
        Markup of fold-outs before the provenance.
    """
    assets = resources.files("abbe.report")
    style = assets.joinpath("page.css").read_text(encoding="utf-8")
    script = assets.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    body = "".join(f"<section><h2>{escape(part.title)}</h2>{part.html}</section>" for part in sections)
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body>"
        f"<header><h1>{escape(title)}</h1>{_subtitle(provenance)}{_card_list(cards)}{_notes(notes)}</header>\n"
        f"<main>{body}{appendix}{_provenance(provenance)}</main>\n"
        f"<footer>{_imprint(provenance)}</footer><script>{script}</script></body></html>\n",
    )


def table(frame: pd.DataFrame, heads: Mapping[str, tuple[str, str]], links: Mapping[str, str] | None = None) -> str:
    """Draw a table that sorts itself when a head is pressed.

    Parameters
    ----------
    frame
        The rows; the first column of `heads` names them.
    heads
        For each column to show its head and unit.
    links
        Addresses by the value of the first column.
    """
    numeric = {column: pd.api.types.is_numeric_dtype(frame[column]) for column in heads}
    head = "".join(_head(title, unit, numeric[column]) for column, (title, unit) in heads.items())
    columns = [frame[column].tolist() for column in heads]
    rows = []
    for values in zip(*columns):
        first, *others = (_cell(value, number) for value, number in zip(values, numeric.values()))
        address = (links or {}).get(str(values[0]))
        name = f'<a href="{_address(address)}">{first[1]}</a>' if address else first[1]
        cells = "".join(
            f'<td data-value="{raw}"{"" if number else " class=text"}>{shown}</td>'
            for (raw, shown), number in zip(others, list(numeric.values())[1:])
        )
        rows.append(f'<tr><th scope="row" data-value="{first[0]}">{name}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _head(title: str, unit: str, number: bool) -> str:
    below = f"<small>{escape(unit)}</small>" if unit else ""
    kind = 'data-kind="number"' if number else 'class="text" data-kind="text"'
    return f'<th scope="col" {kind}><button type="button">{escape(title)}</button>{below}</th>'


def _cell(value: Any, number: bool) -> tuple[str, str]:
    """Give what a cell sorts by and what it shows."""
    if value is None or value != value:
        return "", ""
    if not number:
        return escape(str(value)), escape(str(value))
    return f"{float(value):.12g}", escape(figures.number(float(value)))


def _image_table(images: pd.DataFrame, links: Mapping[str, str]) -> Section | None:
    if images.empty:
        return None
    shown, note = images, ""
    if len(images) > MAX_ROWS:
        order = np.argsort(-images["warnings"].map(lambda joined: len(split_warnings(joined))), kind="stable")
        shown = images.iloc[order[:MAX_ROWS]]
        note = f"{MAX_ROWS} of {len(images):,} images, those with warnings first; all of them are in "
    else:
        note = "Also in "
    heads = _heads(images)
    shown = shown.assign(warnings=["; ".join(split_warnings(joined)) for joined in shown["warnings"]])
    if shown["warnings"].astype(bool).any():
        heads["warnings"] = ("warnings", "")
    files = '<a href="images.csv">images.csv</a>; every object is in <a href="objects.csv">objects.csv</a>'
    return Section("Images", f'<p class="note">{note}{files}.</p>{table(shown, heads, links)}')


def _heads(images: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Choose the columns of the page's table, with their heads and units."""
    measured = bool(images["pixel_size_um"].notna().all())
    heads = {"image": ("image", "")}
    for column, title in SHOWN_COLUMNS.items():
        column = column if measured else IN_PIXELS.get(column, column)
        if is_volumes(images) and column in OF_VOLUMES:
            column, unit, _ = OF_VOLUMES[column]
            heads[column] = (title.replace("area", "volume"), unit)
        else:
            heads[column] = (title, IMAGE_COLUMNS[column][0])
    deep = {column: (title, "") for column, title in DEEP.items() if column in images and (images[column] > 1).any()}
    return heads | deep


def _cards(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    provenance: Mapping[str, Any] | None,
    failures: Sequence[tuple[str, str]],
) -> list[tuple[str, str]]:
    cards = [("images", f"{len(images):,}"), ("objects", f"{len(objects):,}")]
    if len(objects):
        column, what, unit = _size_column(objects)
        cards.append((f"median {what}", f"{figures.number(float(objects[column].median()))} {unit}"))
    model = (provenance or {}).get("model") or {}
    if model.get("name"):
        cards.append(("model", str(model["name"])))
    with_warnings = sum(bool(split_warnings(joined)) for joined in images.get("warnings", ()))
    if with_warnings:
        cards.append(("images with warnings", f"{with_warnings:,}"))
    if failures:
        cards.append(("files that failed", f"{len(failures):,}"))
    return cards


def _about_pixel_size(images: pd.DataFrame) -> list[str]:
    unknown = int(images["pixel_size_um"].isna().sum()) if len(images) else 0
    if not unknown:
        return []
    sizes = "volumes" if is_volumes(images) else "areas"
    which = "these images is" if unknown == len(images) else f"{unknown:,} of {len(images):,} images is"
    return [f"The pixel size of {which} unknown: {sizes} and densities on this page are in pixels."]


def _size_column(objects: pd.DataFrame) -> tuple[str, str, str]:
    """Choose a column, name and unit: µm where every object has it, for a mixture of units must not be averaged."""
    what, in_um, unit, pixels = ("area", "area_um2", "µm²", "px")
    if is_volumes(objects):
        what, in_um, unit, pixels = ("volume", "volume_um3", "µm³", "voxels")
    known = in_um in objects and bool(objects[in_um].notna().all())
    return (in_um, what, unit) if known else (what, what, pixels)


def _card_list(cards: Sequence[tuple[str, str]]) -> str:
    classes = {"files that failed": "bad", "images with warnings": "warn"}
    items = []
    for caption, value in cards:
        figure, _, unit = value.partition(" ") if value[:1].isdigit() else (value, "", "")
        kind = classes.get(caption, "" if value[:1].isdigit() else "text")
        small = f" <small>{escape(unit)}</small>" if unit else ""
        items.append(f'<div class="{kind}"><dt>{escape(caption)}</dt><dd>{escape(figure)}{small}</dd></div>')
    return f'<dl class="cards">{"".join(items)}</dl>' if items else ""


def gallery_section(
    items: Sequence[GalleryItem],
    groups: Mapping[str, str] = MappingProxyType(_GROUPS),
    title: str = "Objects found",
    shows: str = "with the contours of the objects found",
) -> Section | None:
    """Make the part of a page that shows pictures, the kinds of them under headings of their own."""
    if not items:
        return None
    shown = items[:MAX_ITEMS]
    parts = []
    for kind, heading in groups.items():
        figures_of_kind = "".join(_gallery_figure(item, shows) for item in shown if item.kind == kind)
        if figures_of_kind:
            parts.append(f'<h3>{heading}</h3><div class="gallery">{figures_of_kind}</div>')
    return Section(title, "".join(parts))


def picture_section(title: str, picture: Path, about: str, lines: Sequence[str]) -> Section:
    """Make a part of a page of sentences and one picture."""
    source, width, height = data_uri(picture)
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return Section(title, f'{told}<img src="{source}" width="{width}" height="{height}" alt="{escape(about)}">')


def _gallery_figure(item: GalleryItem, shows: str) -> str:
    source, width, height = data_uri(item.picture)
    about = escape(f"{item.name} {shows}. {item.caption}".strip())
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{about}" loading="lazy">'
    tag, address = ("a", f' href="{_address(item.link)}"') if item.link else ("span", "")
    caption = f"<span>{escape(item.caption)}</span>" if item.caption else ""
    return (
        f'<figure class="{item.kind}"><{tag} class="frame"{address}>{image}</{tag}>'
        f"<figcaption>{escape(item.name)}{caption}</figcaption></figure>"
    )


def _charts(images: pd.DataFrame, objects: pd.DataFrame) -> Section | None:
    if objects.empty:
        return None
    size, what, unit = _size_column(objects)
    roundness = "sphericity" if is_volumes(objects) else "circularity"
    charts = [
        figures.histogram(objects[size], what.capitalize(), unit),
        figures.histogram(objects[roundness], roundness.capitalize()),
    ]
    channels = [column for column in objects if column.startswith("mean_")]
    for column in channels[:MAX_CHANNELS]:
        name = column.removeprefix("mean_")
        title = "Mean intensity" if name == "intensity" else f"Mean intensity, {name}"
        charts.append(figures.histogram(objects[column], title))
    if len(images) == 1:
        charts += _along(objects)
    if len(images) > 1:
        charts.append(figures.bars(images["image"].astype(str).tolist(), images["count"], "Objects per image"))
    return Section("Measurements", f'<div class="charts">{"".join(charts)}</div>')


def _along(objects: pd.DataFrame) -> list[str]:
    """Draw how many objects there are in each time point or plane of one image."""
    names = {"time": "time point", "z": "plane"}
    axis = next((axis for axis in names if axis in objects and objects[axis].nunique() > 1), None)
    if axis is None:
        return []
    counts = objects[axis].value_counts()
    places = np.arange(counts.index.min(), counts.index.max() + 1)
    return [
        figures.line(places, counts.reindex(places, fill_value=0).to_numpy(), f"Objects per {names[axis]}", names[axis])
    ]


def failures_section(failures: Sequence[tuple[str, str]]) -> Section | None:
    """Make the part of a page that lists files and what was wrong with each."""
    if not failures:
        return None
    listed = "".join(
        f"<li><b>{escape(str(name))}</b>: {escape(_after_name(str(name), str(message)))}</li>"
        for name, message in failures[:MAX_FAILURES]
    )
    more = len(failures) - MAX_FAILURES
    listed += f"<li>and {more:,} more</li>" if more > 0 else ""
    return Section("Files that failed", f'<ul class="failures">{listed}</ul>')


def _after_name(name: str, message: str) -> str:
    """Messages begin with the file's name; it is already there in bold."""
    return message.removeprefix(f"{name}: ")


def _columns(objects: pd.DataFrame) -> str:
    rows = "".join(
        f"<dt><code>{escape(str(column))}</code></dt><dd>{escape(meaning)}{f' ({escape(unit)})' if unit else ''}</dd>"
        for column in objects
        for unit, meaning in [meaning_of(str(column), is_volumes(objects))]
        if meaning
    )
    return f'<details><summary>What the columns of objects.csv mean</summary><dl class="record">{rows}</dl></details>'


def _provenance(record: Mapping[str, Any] | None) -> str:
    if not record:
        return ""
    return f"<details><summary>How this was made</summary>{_record(record)}</details>"


def _record(record: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{_value(key, value)}</dd>"
        for key, value in record.items()
        if value is not None and value != {} and value != []
    )
    return f'<dl class="record">{items}</dl>'


def _value(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return _record(value)
    if isinstance(value, list | tuple):
        return ", ".join(_value(key, item) for item in value)
    text = escape(str(value))
    return f"<code>{text}</code>" if key in ("command", "sha256") else text


def _subtitle(record: Mapping[str, Any] | None) -> str:
    when = str((record or {}).get("finished", ""))
    if not when:
        return ""
    return f'<p class="subtitle">{escape(when[:10])} {escape(when[11:16])} UTC</p>'


def _imprint(record: Mapping[str, Any] | None) -> str:
    version = (record or {}).get("abbe")
    return f"Made with Abbe {escape(str(version))}" if version else "Made with Abbe"


def _notes(notes: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else ""


def _address(path: str) -> str:
    """Write a relative path as an address: a name with a colon must not be read as a scheme."""
    return escape("./" + quote(Path(path).as_posix()), quote=True)
