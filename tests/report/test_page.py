from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from abbe.report.gallery import GalleryItem
from abbe.report.images import UNKNOWN_PIXEL_SIZE, image_row
from abbe.report.objects import objects_table
from abbe.report.page import MAX_ROWS, Section, write_page, write_report
from abbe.report.pixels import survey
from abbe.report.provenance import provenance
from abbe.report.volumes import volumes_table

HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>.tif"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Reads a page, refusing tags that do not close in order."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def tables(n: int, pixel_size: tuple[float, float] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    labels = np.zeros((40, 40), np.int32)
    labels[2:12, 2:12], labels[20:38, 20:38] = 1, 2
    image = np.random.default_rng(0).integers(0, 999, (1, 40, 40), dtype=np.uint16)
    names = [HOSTILE, *(f"{index}.tif" for index in range(1, n))]
    objects = [objects_table(labels, image, pixel_size=pixel_size, name=name) for name in names[:20]]
    row = image_row("", objects[0], survey(image), pixel_size=pixel_size, seconds=0.5)
    return pd.DataFrame([{**row, "image": name} for name in names]), pd.concat(objects, ignore_index=True)


def report(path: Path, n: int = 3, pixel_size: tuple[float, float] | None = (0.5, 0.5), **more: object) -> Page:
    images, objects = tables(n, pixel_size)
    arguments = {"title": f"Nuclei in {HOSTILE}", "images": images, "objects": objects, **more}
    write_report(path / "report.html", **arguments)
    return Page((path / "report.html").read_text(encoding="utf-8"))


def gallery(n: int) -> list[GalleryItem]:
    picture = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    return [GalleryItem(HOSTILE, picture, "worst" if i < 3 else "typical", HOSTILE, HOSTILE) for i in range(n)]


def test_whatever_users_wrote_is_text(tmp_path: Path) -> None:
    page = report(
        tmp_path,
        gallery=gallery(2),
        failures=[(HOSTILE, f"{HOSTILE}: {HOSTILE}")],
        notes=[HOSTILE],
        links={HOSTILE: HOSTILE},
        provenance=provenance(
            ["abbe", HOSTILE], model={"name": HOSTILE}, inputs=[HOSTILE], settings={HOSTILE: HOSTILE}
        ),
        sections=[Section(HOSTILE, "<p>fine</p>")],
    )
    assert len(page.named("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.named("img"))
    assert page.text.count(HOSTILE) >= 8


def test_page_asks_nothing_of_a_network(tmp_path: Path) -> None:
    page = report(tmp_path, gallery=gallery(1), links={"1.tif": "over lays/1.png"})
    markup = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not page.named("link")
    assert not re.search(r"(?:src|href|url\(|@import)\W*(?:https?:)?//", markup)
    assert not re.search(r"https?://", markup)
    assert {anchor["href"] for anchor in page.named("a")} >= {"images.csv", "objects.csv", "./over%20lays/1.png"}
    policy = next(meta["content"] for meta in page.named("meta") if "content" in meta and "http-equiv" in meta)
    script = markup.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_page_is_accessible(tmp_path: Path) -> None:
    page = report(tmp_path, gallery=gallery(3))
    assert page.named("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.named("img"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.named("svg"))
    assert all(head["scope"] in ("col", "row") for head in page.named("th"))
    assert len(page.named("h1")) == 1


def test_thousands_of_images_stay_one_page(tmp_path: Path) -> None:
    images, objects = tables(5000)
    images.loc[4321, "warnings"] = f"no objects found; {UNKNOWN_PIXEL_SIZE}"
    page = report(tmp_path, images=images, objects=objects, gallery=gallery(40), failures=[("a", "b")] * 3000)
    assert len(page.named("tr")) == MAX_ROWS + 1
    assert len(page.named("img")) == 12
    assert "4321.tif" in page.text
    assert "500 of 5,000 images" in page.text
    assert "and 2,900 more" in page.text
    assert (tmp_path / "report.html").stat().st_size < 6e6


def test_headline_counts(tmp_path: Path) -> None:
    images, objects = tables(4, (0.5, 0.5))
    images.loc[2, "warnings"] = "very low contrast"
    page = report(
        tmp_path, images=images, objects=objects, provenance={"model": {"name": "nuclei"}}, failures=[("x", "y")]
    )
    figures = re.findall(
        r"<dt>([^<]+)</dt><dd>([^<]+)(?: <small>([^<]+)</small>)?</dd>", (tmp_path / "report.html").read_text()
    )
    found = {caption: (value.strip(), unit) for caption, value, unit in figures}
    assert found["images"] == ("4", "")
    assert found["objects"] == ("8", "")
    assert found["median area"] == ("53", "µm²")  # of 100 and 324 pixels of 0.25 µm²
    assert found["model"] == ("nuclei", "")
    assert found["images with warnings"] == ("1", "")
    assert found["files that failed"] == ("1", "")
    assert "in pixels" not in page.text


def test_mixed_pixel_sizes_are_compared_in_pixels(tmp_path: Path) -> None:
    known, unknown = tables(3, (0.5, 0.5)), tables(2, None)
    page = report(
        tmp_path,
        images=pd.concat([known[0], unknown[0]], ignore_index=True),
        objects=pd.concat([known[1], unknown[1]], ignore_index=True),
    )
    assert "pixel size of 2 of 5 images is unknown" in page.text
    assert "Area (px)" in page.text


def test_volumes_have_their_own_words(tmp_path: Path) -> None:
    labels = np.zeros((9, 40, 40), np.int32)
    labels[2:7, 2:12, 2:12], labels[1:8, 20:38, 20:38] = 1, 2
    objects = volumes_table(labels, pixel_size=(2.0, 0.5, 0.5), name="a.tif")
    row = image_row("a.tif", objects, survey(labels[None]), pixel_size=(2.0, 0.5, 0.5), seconds=1)
    page = report(tmp_path, images=pd.DataFrame([row]), objects=objects)
    for words in ("median volume", "Volume (µm³)", "Sphericity", "1/mm³", "planes", "number of its voxels (voxels)"):
        assert words in page.text
    for words in ("area", "ircularity", "frames", "mm²"):
        assert words not in page.text.replace("area of its surface", "")
    unknown = [image_row("a.tif", volumes_table(labels), survey(labels[None]))]
    page = report(tmp_path, images=pd.DataFrame(unknown), objects=volumes_table(labels))
    assert "volumes and densities on this page are in pixels" in page.text
    assert "Volume (voxels)" in page.text


@pytest.mark.parametrize(("axis", "words"), [("time", "Objects per time point"), ("z", "Objects per plane")])
def test_a_series_is_drawn_along_its_axis(tmp_path: Path, axis: str, words: str) -> None:
    images, objects = tables(1)
    series = pd.concat([objects.assign(**{axis: index}) for index in (2, 3, 5)], ignore_index=True)
    page = report(tmp_path, images=images.assign(frames=4), objects=series)
    assert words in page.text
    assert "0 – 2" in page.text
    assert "frames" in page.text
    assert words not in report(tmp_path, images=images, objects=objects).text


@pytest.mark.parametrize("failures", [[], [("a.tif", "a.tif: not an image")]])
def test_a_run_that_found_nothing_still_has_a_report(tmp_path: Path, failures: list[tuple[str, str]]) -> None:
    images, objects = tables(1)
    page = report(tmp_path, images=images.iloc[:0], objects=objects.iloc[:0], failures=failures)
    assert ("not an image" in page.text) == bool(failures)
    report(tmp_path, images=pd.DataFrame(), objects=pd.DataFrame(), failures=failures)


def test_other_pages_share_the_dress(tmp_path: Path) -> None:
    write_page(
        tmp_path / "evaluation.html",
        title="Evaluation",
        sections=[Section("Scores & more", "<p>0.9</p>")],
        cards=[("AP at IoU 0.5", "0.912")],
    )
    page = Page((tmp_path / "evaluation.html").read_text(encoding="utf-8"))
    assert "Scores & more" in page.text
    assert "0.912" in page.text
