"""Records of published files are true of the networks they name, and a file that is not there is told."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from abbe.errors import AbbeError
from abbe.methods.catalog import ENTRIES, module_of, published, variant
from abbe.weights.published import Published, check_hash, find_record, find_weights, tell_record

RECORD = Published("resnet18", "https://example.org/a/b-12ab.pth", "BSD-3-Clause", top1=70.25, sha256="12ab")
RECORDS = [RECORD, replace(RECORD, address="https://example.org/c.pth", file="d.pth", sha256="")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABBE_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.parametrize("file", sorted({entry.file for entry in ENTRIES.values()}))
def test_records_name_networks_and_their_parameters(file: str) -> None:
    records = [record for record in published() if record.network in ENTRIES and ENTRIES[record.network].file == file]
    counted: dict[tuple[str, str], int] = {}
    for record in records:
        key = (record.network, str(record.config))
        if key not in counted:
            with torch.device("meta"):
                network = module_of(file).build(replace(variant(record.network), **record.config))
            counted[key] = sum(parameter.numel() for parameter in network.parameters())
        assert record.parameters == counted[key], record.name


def test_records_are_whole() -> None:
    for record in published():
        assert record.network in ENTRIES
        assert record.address.startswith("https://")
        assert record.licence
        assert len(record.mean) == len(record.std)
        assert record.sha256 == record.sha256.lower()
        assert record.top1 is None or 50 < record.top1 < 100
    twice = [pair for pair, times in Counter((r.network, r.name) for r in published()).items() if times > 1]
    assert twice == []


def test_a_file_is_known_by_its_name(tmp_path: Path) -> None:
    assert find_record(tmp_path / "b-12ab.pth", RECORDS) is RECORD
    assert find_record("d.pth", RECORDS) is RECORDS[1]
    assert find_record("c.pth", RECORDS) is None
    assert find_record("b-12ab.pth", RECORDS, "resnet34") is None


def test_a_file_is_found_by_path_or_in_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()
    (folder / "d.pth").touch()
    assert find_weights(tmp_path / "mine.pth", RECORDS) == tmp_path / "mine.pth"
    assert find_weights("d.pth", RECORDS) == folder / "d.pth"


def test_a_file_that_is_not_there_is_told_with_its_address_and_place(folder: Path) -> None:
    with pytest.raises(AbbeError) as told:
        find_weights("b-12ab.pth", RECORDS, "resnet18")
    assert f"download {RECORD.address} and save it as {folder / 'b-12ab.pth'} (or in $ABBE_WEIGHTS)" in str(told.value)
    with pytest.raises(AbbeError) as told:
        find_weights("other.pth", RECORDS, "resnet18")
    assert str(told.value).endswith(f"put into {folder}: {RECORD.address}, https://example.org/c.pth as d.pth")
    with pytest.raises(AbbeError, match=r"download https://example\.org/c\.pth and save it as .*weights.d\.pth"):
        find_weights("d.pth", RECORDS)
    with pytest.raises(AbbeError, match=r"other\.pth: no such file; `abbe models` lists the published ones"):
        find_weights("other.pth", RECORDS)
    with pytest.raises(AbbeError, match=r"other\.pth: no such file, and no published weights of 'resnet34' are known"):
        find_weights("other.pth", RECORDS, "resnet34")


def test_the_name_of_a_bundled_model_is_no_file(folder: Path) -> None:
    with pytest.raises(AbbeError, match="redcells: the name of a bundled model, .* with --model redcells, or in"):
        find_weights("redcells", RECORDS, "resnet18")
    (folder / "redcells").touch()
    assert find_weights("redcells", RECORDS, "resnet18") == folder / "redcells"


def test_another_file_of_the_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b-12ab.pth"
    path.write_bytes(b"something")
    with pytest.raises(AbbeError, match=r"SHA-256 begins with [0-9a-f]{4}, not 12ab"):
        check_hash(path, RECORD)
    check_hash(path, replace(RECORD, sha256=hashlib.sha256(b"something").hexdigest()[:8]))


def test_a_record_is_told_in_a_line() -> None:
    line = tell_record(replace(RECORD, parameters=11_689_512))
    facts = ("b-12ab.pth: resnet18", "11.7 M", "70.25 % of ImageNet-1k", "0.485/0.229", "BSD-3-Clause", "12ab…")
    assert all(fact in line for fact in facts)
    assert "\n" not in line
