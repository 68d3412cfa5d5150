"""What the user means is found, and no two results get one name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.inputs import find_images
from abbe.errors import AbbeError


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Make files and work beside them."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def places(*inputs: str | Path) -> dict[str, str]:
    return {Path(found.path).as_posix(): found.relative.as_posix() for found in find_images(inputs)}


def test_a_file_gives_its_stem(at):
    at("plate 1/ü.ome.tif", "plate 1/b.01.png")
    assert places("plate 1/ü.ome.tif") == {"plate 1/ü.ome.tif": "ü"}
    assert places("plate 1/b.01.png") == {"plate 1/b.01.png": "b.01"}


def test_a_file_named_directly_is_taken_whatever_its_suffix(at):
    at("a.dat", ".hidden.tif")
    assert places("a.dat", ".hidden.tif") == {"a.dat": "a", ".hidden.tif": ".hidden"}


def test_folders_are_searched_through_and_sorted(at):
    at("p/b.tif", "p/a.PNG", "p/sub/deep/c.jpg", "p/notes.txt", "p/.hidden.tif", "p/.git/d.tif")
    assert list(places("p").items()) == [("p/a.PNG", "a"), ("p/b.tif", "b"), ("p/sub/deep/c.jpg", "sub/deep/c")]
    assert list(places("p/").values()) == ["a", "b", "sub/deep/c"]


def test_equal_stems_in_different_folders_stay_apart(at):
    at("plate1/a.tif", "plate2/a.tif")
    expected = {"plate1/a.tif": "plate1/a", "plate2/a.tif": "plate2/a"}
    assert places("plate1", "plate2") == expected
    assert places("plate1/a.tif", "plate2/a.tif") == expected
    assert places("plate1", "plate2/*.tif") == expected
    assert places("plate?/*.tif") == expected
    assert places("**/*.tif") == expected
    assert places("plate*") == expected


def test_a_folder_keeps_its_names_when_it_only_has_subfolders(at):
    at("p/sub/a.tif")
    assert places("p") == {"p/sub/a.tif": "sub/a"}


def test_equal_stems_with_other_suffixes_stay_apart(at):
    at("p/a.tif", "p/a.png", "p/a.ome.tif", "p/b.tif", "p/B.png")
    assert places("p") == {
        "p/B.png": "B_png",
        "p/a.ome.tif": "a_ome_tif",
        "p/a.png": "a_png",
        "p/a.tif": "a_tif",
        "p/b.tif": "b_tif",
    }


def test_what_cannot_be_told_apart_is_an_error(at):
    at("p/a.tif", "p/a.png", "p/a_tif.tif")
    with pytest.raises(AbbeError, match=r"p/a\.tif and p/a_tif\.tif: results of both would be called a_tif; rename"):
        find_images(["p"])


def test_every_file_comes_once(at):
    at("p/a.tif", "p/b.tif")
    assert list(places("p/b.tif", "p", "p/*.tif", "./p/a.tif")) == ["p/b.tif", "p/a.tif"]


def test_home_and_names_that_look_like_patterns(at, monkeypatch):
    home = at("p/a[1].tif", "p/a1.tif")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    assert list(places("p/a[1].tif")) == ["p/a[1].tif"]
    assert list(places("~/p/a1.tif").values()) == ["a1"]
    assert list(places(Path("p/a1.tif"))) == ["p/a1.tif"]


def test_our_own_results_are_left_out_only_where_they_are_results(at):
    at("p/a.tif", "p/a_labels.tif", "p/sub/b_overlay.png")
    assert len(places("p")) == 3
    at("p/images.csv", "p/provenance.json")
    assert places("p") == {"p/a.tif": "a"}
    with pytest.raises(AbbeError, match="no images in this folder"):
        find_images(["p/sub"])
    assert places("p/*.tif") == {"p/a.tif": "a"}
    assert places("p/a_labels.tif") == {"p/a_labels.tif": "a_labels"}


def test_links_are_followed_but_not_in_circles(at):
    folder = at("data/a.tif")
    try:
        os.symlink(folder / "data", folder / "data" / "again")
        os.symlink(folder / "data", folder / "link")
    except OSError:
        pytest.skip("links are not allowed here")
    assert places("link") == {"link/a.tif": "a"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("none.tif", r"none\.tif: no such file or folder"),
        ("empty", r"empty: no images in this folder; looked for files ending in \.tif .*\.png"),
        ("empty/*.tif", r"empty/\*\.tif: nothing matches; looked for files ending in \.tif"),
        ("empty/*", "nothing matches"),
    ],
)
def test_nothing_found_says_what_was_looked_for(at, given, words):
    at("empty/notes.txt", "full/a.tif")
    with pytest.raises(AbbeError, match=words):
        find_images(["full", given])


def test_a_zarr_is_one_image_and_its_inside_none(at):
    at(
        "p/a.ome.zarr/0/c/0/0.png",
        "p/a.ome.zarr/zarr.json",
        "p/b/.zgroup",
        "p/b/0/.zarray",
        "p/c.tif",
        "p/.d.zarr/.zgroup",
    )
    assert places("p") == {"p/a.ome.zarr": "a", "p/b": "b", "p/c.tif": "c"}
    assert places("p/*") == places("p")
    assert places("p/a.ome.zarr") == {"p/a.ome.zarr": "a"}
    assert places("p/a.ome.zarr/") == {"p/a.ome.zarr": "a"}
    at("p/a_labels.ome.zarr/zarr.json")
    assert len(places("p")) == 4
    at("p/images.csv", "p/provenance.json")
    assert len(places("p")) == 3


def test_the_fields_of_a_plate_are_a_pattern(at):
    at(*(f"p.zarr/{well}/{field}/.zattrs" for well in ("A/1", "B/2") for field in ("0", "1")), "p.zarr/.zattrs")
    expected = {f"p.zarr/{place}": place for place in ("A/1/0", "A/1/1", "B/2/0", "B/2/1")}
    assert places("p.zarr/*/*/*") == expected


def test_addresses_are_passed_on(at):
    at("a.tif")
    found = find_images(
        ["s3://bucket/deep/b.ome.zarr/", "a.tif", "https://host/p.zarr/A/1/0?x=1", "s3://bucket/deep/b.ome.zarr/"]
    )
    assert {str(item.path): item.relative.as_posix() for item in found} == {
        "a.tif": "a",
        "s3://bucket/deep/b.ome.zarr/": "b",
        "https://host/p.zarr/A/1/0?x=1": "p.zarr/A/1/0",
    }
    assert places(Path("a.tif").absolute().as_uri()) == {Path("a.tif").absolute().as_posix(): "a"}


def test_no_input_at_all():
    with pytest.raises(AbbeError, match="no input was given"):
        find_images([])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read(at):
    (at("p/secret/a.tif") / "p" / "secret").chmod(0)
    with pytest.raises(AbbeError, match="secret: cannot be read"):
        find_images(["p"])


names = st.sampled_from(["a", "b", "A", "a.01", "ä", "a b"])
files = st.tuples(st.sampled_from(["", "p", "q", "p/r"]), names, st.sampled_from([".tif", ".ome.tif", ".png"]))


@given(st.sets(files, min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_places_are_unique_and_the_same_however_the_files_are_named(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp("inputs")
    for parent, stem, suffix in chosen:
        (folder / parent).mkdir(parents=True, exist_ok=True)
        (folder / parent / f"{stem}{suffix}").touch()
    found = find_images([folder])
    assert len(found) == len(chosen) == len({image.relative for image in found})
    by_pattern = {image.path: image.relative for image in find_images([str(folder / "**" / "*.*")])}
    assert by_pattern == {image.path: image.relative for image in found}
