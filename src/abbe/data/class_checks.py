"""What is wrong or odd with images in folders of classes, told before a training rather than by its result."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from abbe.data.channels import match_channels
from abbe.data.checks import SHOWN, Finding
from abbe.data.classes import ClassFolder, Labelled, classes_of
from abbe.data.datasets import whole_plane
from abbe.data.read import read
from abbe.errors import AbbeError

RARE = 5
"""A class of fewer images to train on is hardly learnt."""


@dataclass
class Look:
    """What one reading of all images tells."""

    digests: dict[str, str] = field(default_factory=dict)
    """Of the pixels, by the names of the images that can be read."""
    findings: list[Finding] = field(default_factory=list)
    """Images that cannot be read, have other channels, or are blank."""


def look_at(images: Sequence[Labelled], in_channels: int | None = None) -> Look:
    """Read every image once; equal pixels give equal digests, whatever the file format."""
    look = Look()
    for one in images:
        try:
            pixels = whole_plane(read(one.image))
            if in_channels is not None:
                match_channels(pixels[:, :1, :1].astype(np.float32), in_channels, str(one.image))
        except AbbeError as error:
            look.findings.append(Finding("error", _named(one, str(error))))
            continue
        shape = str((pixels.shape, pixels.dtype.str)).encode()
        look.digests[one.name] = hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + shape).hexdigest()
        if pixels.min() == pixels.max():
            look.findings.append(Finding("warning", f"{one.image}: every pixel has the value {pixels.flat[0]}"))
    return look


def of_test(look: Look) -> list[Finding]:
    """Give what was found in images that are only kept for testing: no reason not to train."""
    return [Finding("warning", f"in test: {finding.text}") for finding in look.findings]


def _named(image: Labelled, sentence: str) -> str:
    return (
        sentence if str(image.image) in sentence else f"{image.image}: {sentence.removeprefix(image.image.name + ': ')}"
    )


def check_classes(
    train: Sequence[Labelled],
    validation: Sequence[Labelled],
    digests: Mapping[str, str],
    folders: Sequence[ClassFolder] = (),
    test: Sequence[Labelled] = (),
) -> list[Finding]:
    """Report what looks wrong with the images to train and to validate on, errors first.

    Parameters
    ----------
    train, validation
        The two parts.
    digests
        Of the content, by name, as :func:`look_at` gives them.
    folders
        Where they came from, for empty classes and images beside them.
    test
        What is kept for testing, and should hold none of the others.
    """
    parts = {"train": train, "val": validation, "test": test}
    findings = [
        *_about_folders(folders),
        *_about_classes(train, validation),
        *_about_test(train, validation, test),
        *_about_duplicates([(part, one) for part, images in parts.items() for one in images], digests),
        *_about_groups(train, validation),
    ]
    return sorted(findings, key=lambda finding: finding.level)


def _about_folders(folders: Sequence[ClassFolder]) -> Iterator[Finding]:
    empty = [name for folder in folders for name in folder.empty]
    if empty:
        text = f"{_count(len(empty), 'class folder')} without an image: {_examples(empty)}; add images or remove it"
        yield Finding("error", text)
    loose = [str(path) for folder in folders for path in folder.loose]
    if loose:
        text = f"{_count(len(loose), 'image')} in no class folder, left out: {_examples(loose)}"
        yield Finding("warning", text)


def _about_classes(train: Sequence[Labelled], validation: Sequence[Labelled]) -> Iterator[Finding]:
    counts = Counter(one.kind for one in train)
    names = classes_of([*train, *validation])
    if len(names) < 2:
        yield Finding("error", f"one class only, {names[0] if names else 'none'!r}; expected images of two at least")
    absent = [name for name in names if not counts[name]]
    if absent:
        yield Finding("error", f"no image to train on of {_examples(absent)}; the other part has some")
    rare = [f"{name} ({counts[name]})" for name in names if 0 < counts[name] < RARE]
    if rare:
        yield Finding("warning", f"very few images to train on of {_examples(rare)}")
    if validation:
        unseen = sorted(set(counts) - {one.kind for one in validation})
        if unseen:
            yield Finding("warning", f"no image to validate on of {_examples(unseen)}")


def _about_test(
    train: Sequence[Labelled], validation: Sequence[Labelled], test: Sequence[Labelled]
) -> Iterator[Finding]:
    alone = sorted({one.kind for one in test} - {one.kind for one in (*train, *validation)})
    if alone:
        yield Finding("warning", f"a class in test only, which no model will know: {_examples(alone)}")


def _about_duplicates(images: Sequence[tuple[str, Labelled]], digests: Mapping[str, str]) -> Iterator[Finding]:
    alike: dict[str, list[tuple[str, Labelled]]] = defaultdict(list)
    for part, one in images:
        if one.name in digests:
            alike[digests[one.name]].append((part, one))
    same = [places for places in alike.values() if len(places) > 1]
    for level, text, hit in (
        ("error", "the same image in train and val, so the score would be too good", _across(same, {"train", "val"})),
        ("warning", "the same image in train and test: a score on test is too good", _across(same, {"train", "test"})),
        ("warning", "the same image in val and test: a score on test is too good", _across(same, {"val", "test"})),
        ("warning", "the same image in two classes", _across_classes(same)),
        ("warning", "the same image more than once", _within(same)),
    ):
        if hit:
            shown = "; ".join(" = ".join(str(one.image) for _, one in places[:SHOWN]) for places in hit[:SHOWN])
            more = f" and {len(hit) - SHOWN} more" if len(hit) > SHOWN else ""
            yield Finding(level, f"{text}: {shown}{more}")  # type: ignore[arg-type]


Places = list[tuple[str, Labelled]]


def _across(same: Sequence[Places], parts: set[str]) -> list[Places]:
    return [places for places in same if parts <= {part for part, _ in places}]


def _across_classes(same: Sequence[Places]) -> list[Places]:
    return [places for places in same if len({one.kind for _, one in places}) > 1]


def _within(same: Sequence[Places]) -> list[Places]:
    return [places for places in same if len({(part, one.kind) for part, one in places}) == 1]


def _about_groups(train: Sequence[Labelled], validation: Sequence[Labelled]) -> Iterator[Finding]:
    shared = sorted({one.group for one in train} & {one.group for one in validation})
    if shared:
        yield Finding("error", f"{_count(len(shared), 'group')} in train and in val: {_examples(shared)}")


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
