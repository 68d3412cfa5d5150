"""The house: imports run one way, a name says where its file is, and nothing heavy wakes on import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from abbe.data.augment import AugmentConfig
from abbe.learn import describe
from abbe.methods.catalog import ENTRIES, OBJECTIVES, module_of
from abbe.train.recipe import list_recipes, load_recipe
from abbe.train.settings import build_config

PACKAGE = Path(__file__).parents[1] / "src" / "abbe"

ROOMS = (
    *("errors", "settings", "contract", "ops", "nn", "metrics", "data", "tiling", "weights", "train", "methods"),
    *(
        "report",
        "batch",
        "together",
        "segmentation",
        "job",
        "cluster",
        "size",
        "planning",
        "model",
        "views",
        "classification",
        "class_batch",
        "embedding",
        "embed_batch",
        "translation",
        "restoration",
        "restoration_in_time",
        "adopt",
        "conversion",
        "evaluation",
        "lesson",
        "learn_input",
        "learn_classes",
        "learn_noisy",
        "learn_restoration",
        "learn_sequences",
        "learn",
        "learn_deblurring",
        "noise_look",
        "self_training",
        "restore_batch",
        "cards",
        "export",
        "checkup",
        "demo",
        "folders",
        "reproduce",
        "api",
        "display",
        "cli",
    ),
)
"""A file may import from its own room and from earlier ones."""
TOPICS = (
    *("catalog", "backbones", "restoration", "attention", "segmentation", "detection", "tracking"),
    *("selfsupervised", "adversarial", "diffusion", "multimodal"),
)
"""The same inside ``methods/``."""
KNOWN_TO_METHODS = ("sample", "augment", "normalize", "channels", "resample")
"""What methods may take from ``data/``: the rest of it touches files."""
HEAVY = ("torch", "numpy", "pandas", "scipy", "skimage", "matplotlib", "lightning", "tifffile", "PIL")
SAY_NOTHING = {"utils", "util", "misc", "helpers", "helper", "common", "base", "manager", "managers"}
MAX_LINES = 450
CITATION = re.compile(r"arXiv:\d{4}\.\d{4,5}|\b10\.\d{4,9}/\S+")


@dataclass(frozen=True)
class Import:
    """One import statement, wherever in the file it stands."""

    line: int
    module: str
    """As it is written; with leading dots where it is relative."""
    names: tuple[str, ...] = ()
    """What ``from module import`` takes."""


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        return room_of(self.name)

    def imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (Import(node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = tuple(alias.name for alias in node.names)
                yield Import(node.lineno, "." * node.level + (node.module or ""), names)

    def abbe_imports(self) -> Iterator[Import]:
        """Imports of the package's files; ``from abbe.data import axes`` is one of the file ``abbe.data.axes``."""
        for found in self.imports():
            if found.module.split(".")[0] not in ("abbe", ""):
                continue
            files = [f"{found.module}.{name}" for name in found.names if f"{found.module}.{name}" in modules()]
            yield from (Import(found.line, file) for file in files)
            if len(files) < len(found.names) or not found.names:
                yield found

    def defined(self) -> set[str]:
        """Names that top-level statements of the file itself give."""
        names: set[str] = set()
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        return names


@cache
def modules() -> dict[str, Module]:
    """Every file of the package by its dotted name, the doors of the rooms (empty) left out."""
    return {module.name: module for module in map(parsed, sorted(PACKAGE.rglob("*.py"))) if module.path.stat().st_size}


def parsed(path: Path) -> Module:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, path, ast.parse(path.read_text(encoding="utf-8")))


def inside() -> Iterator[tuple[Module, Import]]:
    """Every import of a file of the package by another; the visitors' door ``abbe/__init__.py`` looks everywhere."""
    for module in modules().values():
        if module.name != "abbe":
            yield from ((module, found) for found in module.abbe_imports() if found.module != "abbe")


def room_of(name: str) -> str:
    return (name.split(".") + [""])[1]


def told(module: Module, found: Import, what: str = "") -> str:
    return f"{module.name}:{found.line} imports {found.module} {what}".rstrip()


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# ------------------------------------------------------------------------------------------------------ imports


def test_every_file_is_in_a_room():
    assert {module.room for module in modules().values()} - {"", *ROOMS} == set()
    topics = {name.split(".")[2] for name in modules() if room_of(name) == "methods"}
    assert topics - set(TOPICS) == set()


def test_imports_run_one_way():
    wrong = [
        told(module, found)
        for module, found in inside()
        if ROOMS.index(room_of(found.module)) > ROOMS.index(module.room)
    ]
    assert wrong == []


def test_topics_import_from_earlier_topics():
    def topic(name: str) -> int:
        return TOPICS.index(name.split(".")[2])

    wrong = [
        told(module, found)
        for module, found in inside()
        if module.room == room_of(found.module) == "methods" and topic(found.module) > topic(module.name)
    ]
    assert wrong == []


def test_methods_know_no_files_tiles_or_trainer():
    wrong = [
        told(module, found)
        for module, found in inside()
        if module.room == "methods"
        and (
            room_of(found.module) in ("tiling", "train", "weights")
            or (room_of(found.module) == "data" and found.module.removeprefix("abbe.data.") not in KNOWN_TO_METHODS)
        )
    ]
    assert wrong == []


def test_only_train_imports_lightning():
    wrong = [
        told(module, found)
        for module in modules().values()
        for found in module.imports()
        if module.room != "train" and within(found.module, "lightning", "pytorch_lightning")
    ]
    assert wrong == []


def test_imports_name_the_file_that_defines():
    wrong = [
        told(module, found, f"({name})")
        for module, found in inside()
        for name in found.names
        if found.module not in modules() or name not in modules()[found.module].defined()
    ]
    assert wrong == []


def test_the_door_gives_only_the_version_to_those_inside():
    wrong = [
        told(module, found)
        for module in modules().values()
        for found in module.abbe_imports()
        if found.module == "abbe" and found.names != ("__version__",)
    ]
    assert wrong == []


def test_no_import_goes_in_a_circle():
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for module, found in inside():
        graph[module.name].add(found.module)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_only_the_doors_import_by_a_computed_name():
    """An import that no reader and no test can see is allowed where laziness is the purpose."""
    wrong = [
        f"{module.name}:{node.lineno}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id in ("import_module", "__import__")
    ]
    assert {place.split(":")[0] for place in wrong} <= {"abbe", "abbe.methods.catalog", "abbe.reproduce.run"}


# -------------------------------------------------------------------------------------------------------- files


def test_package_doors_are_empty():
    doors = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert [str(path) for path in doors if path.stat().st_size] == []


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_file_has_a_name_that_says_nothing():
    parts = {part for path in PACKAGE.rglob("*.py") for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert parts & SAY_NOTHING == set()


def test_files_can_be_read_in_one_sitting():
    lengths = {name: len(module.path.read_text(encoding="utf-8").splitlines()) for name, module in modules().items()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_what_is_public_is_explained():
    assert [place for module in modules().values() for place in unexplained(module)] == []


def unexplained(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield module.name
    scopes: list[ast.Module | ast.ClassDef] = [module.tree]
    while scopes:
        for node in scopes.pop().body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                yield f"{module.name}:{node.lineno} {node.name}"
            if isinstance(node, ast.ClassDef):
                scopes.append(node)


# ------------------------------------------------------------------------------------------------------ catalog


def test_catalog_and_files_name_the_same_variants():
    files = sorted({entry.file for entry in ENTRIES.values()})
    listed = {file: {name for name, entry in ENTRIES.items() if entry.file == file} for file in files}
    assert {file: set(module_of(file).VARIANTS) for file in files} == listed


def test_no_variants_are_missing_from_the_catalog():
    holders = {
        module.path.relative_to(PACKAGE / "methods").as_posix()
        for module in modules().values()
        if module.room == "methods" and "VARIANTS" in module.defined()
    }
    assert holders == {entry.file for entry in ENTRIES.values()}


def test_objectives_exist():
    for objective in OBJECTIVES.values():
        file = module_of(objective.file)
        assert {objective.type, objective.config} <= set(vars(file)), objective.file
    assert {entry.objective for entry in ENTRIES.values()} <= set(OBJECTIVES)


@pytest.mark.parametrize("file", sorted({entry.file for entry in ENTRIES.values()}))
def test_a_method_cites_its_paper(file: str):
    text = ast.get_docstring(modules()["abbe.methods." + file.removesuffix(".py").replace("/", ".")].tree) or ""
    cited = {entry.paper.partition(":")[2] for entry in ENTRIES.values() if entry.file == file}
    assert all(number in text for number in cited)


def test_every_file_of_a_method_cites_a_paper():
    wrong = [
        module.name
        for module in modules().values()
        if module.room == "methods"
        and module.name != "abbe.methods.catalog"
        and not CITATION.search(ast.get_docstring(module.tree) or "")
    ]
    assert wrong == []


def test_a_tiny_variant_for_tests_is_in_every_file():
    files = {entry.file for entry in ENTRIES.values()}
    assert {entry.file for name, entry in ENTRIES.items() if name.endswith("_tiny")} == files


# ------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", [summary.name for summary in list_recipes()])
def test_a_recipe_opens_with_command_cost_and_result_and_all_its_settings_exist(name: str):
    recipe = load_recipe(name)
    assert all((recipe.title, recipe.command, recipe.cost, recipe.result))
    assert recipe.name == name
    assert recipe.method in ENTRIES
    describe(recipe)  # raises where network, options or normalisation have a setting that does not exist
    build_config(AugmentConfig, recipe.data.augment, name)


def test_recipes_of_the_catalog_exist():
    wanted = {entry.recipe for entry in ENTRIES.values() if entry.recipe}
    assert wanted - {summary.name for summary in list_recipes()} == set()


# ---------------------------------------------------------------------------------------------------------- door


def test_no_room_takes_the_place_of_a_verb():
    """Importing a room sets its name on the package, where it would hide a function of the same name."""
    awake = "import abbe, abbe.api; print(*(name for name in abbe.__all__ if not callable(getattr(abbe, name))))"
    ran = subprocess.run([sys.executable, "-c", awake], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


# -------------------------------------------------------------------------------------------------------- waking


@pytest.mark.parametrize(
    "line",
    [
        "import abbe",
        "import abbe.cli.main",
        "import abbe.errors, abbe.settings, abbe.contract, abbe.methods.catalog",
        "import abbe.train.settings, abbe.train.recipe",
        "from abbe.cli.main import app; app(['--help'], result_action='return_value')",
        "from abbe.cli.main import app; app(['segment', '--help'], result_action='return_value')",
    ],
)
def test_nothing_heavy_wakes_before_it_is_used(line: str):
    check = f"import sys; print('awake:', *(name for name in {HEAVY!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", f"{line}\n{check}"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1].split() == ["awake:"]
