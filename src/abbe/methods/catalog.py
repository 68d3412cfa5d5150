"""Every public name, in one literal table; nothing registers itself, and looking here imports no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

from abbe.errors import AbbeError


@dataclass(frozen=True)
class Entry:
    """What the catalog knows of a network."""

    file: str
    """Where it is, below ``methods/``."""
    task: str
    """What it is for."""
    title: str
    """Of the paper."""
    year: int
    """Of the paper."""
    paper: str
    """Where to find the paper: arXiv id or DOI."""
    objective: str
    """The method that trains and uses it, a name of ``OBJECTIVES``."""
    recipe: str = ""
    """Name of the recipe that trains it."""


@dataclass(frozen=True)
class Objective:
    """A method around a network."""

    file: str
    """Where it is, below ``methods/``."""
    type: str
    """Class; its first argument is the network, its second its config."""
    config: str
    """Dataclass of its options."""


_UNET = "U-Net: Convolutional Networks for Biomedical Image Segmentation"
_UNET_3D = "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation"
_FALK = "U-Net: deep learning for cell counting, detection, and morphometry"

_RESNET = Entry(
    "backbones/resnet.py",
    "classification",
    "Deep Residual Learning for Image Recognition",
    2015,
    "arXiv:1512.03385",
    "classification",
)
_CONVNEXT = Entry(
    "backbones/convnext.py", "classification", "A ConvNet for the 2020s", 2022, "arXiv:2201.03545", "classification"
)
_ALEXNET = Entry(
    "backbones/alexnet.py",
    "classification",
    "ImageNet Classification with Deep Convolutional Neural Networks",
    2012,
    "doi:10.1145/3065386",
    "classification",
)

ENTRIES = {
    "alexnet_2012": _ALEXNET,
    "alexnet": _ALEXNET,
    "alexnet_tiny": _ALEXNET,
    "convnext_tiny": _CONVNEXT,
    "convnext_small": _CONVNEXT,
    "convnext_base": _CONVNEXT,
    "convnext_large": _CONVNEXT,
    "convnext_xlarge": _CONVNEXT,
    "convnext_test_tiny": _CONVNEXT,
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnet152": _RESNET,
    "resnet50_v1": _RESNET,
    "resnet101_v1": _RESNET,
    "resnet152_v1": _RESNET,
    "resnet20_cifar": _RESNET,
    "resnet32_cifar": _RESNET,
    "resnet44_cifar": _RESNET,
    "resnet56_cifar": _RESNET,
    "resnet110_cifar": _RESNET,
    "plain20_cifar": _RESNET,
    "plain32_cifar": _RESNET,
    "plain44_cifar": _RESNET,
    "plain56_cifar": _RESNET,
    "plain110_cifar": _RESNET,
    "resnet_tiny": _RESNET,
    "unet_2015": Entry("backbones/unet.py", "segmentation", _UNET, 2015, "arXiv:1505.04597", "unet", "unet_2015"),
    "unet_2015_tiny": Entry("backbones/unet.py", "segmentation", _UNET, 2015, "arXiv:1505.04597", "unet"),
    "unet_falk_2d": Entry(
        "backbones/unet_falk.py",
        "segmentation",
        _FALK,
        2019,
        "doi:10.1038/s41592-018-0261-2",
        "falk",
        "unet_falk_2d",
    ),
    "unet_falk_2d_tiny": Entry(
        "backbones/unet_falk.py", "segmentation", _FALK, 2019, "doi:10.1038/s41592-018-0261-2", "falk"
    ),
    "unet_falk_3d": Entry(
        "backbones/unet_falk.py", "segmentation", _FALK, 2019, "doi:10.1038/s41592-018-0261-2", "falk"
    ),
    "unet_falk_3d_tiny": Entry(
        "backbones/unet_falk.py", "segmentation", _FALK, 2019, "doi:10.1038/s41592-018-0261-2", "falk"
    ),
    "unet_3d": Entry("backbones/unet_3d.py", "segmentation", _UNET_3D, 2016, "arXiv:1606.06650", "instances"),
    "unet_3d_small": Entry(
        "backbones/unet_3d.py", "segmentation", _UNET_3D, 2016, "arXiv:1606.06650", "instances", "nuclei_3d"
    ),
    "unet_3d_tiny": Entry("backbones/unet_3d.py", "segmentation", _UNET_3D, 2016, "arXiv:1606.06650", "instances"),
    "unet_residual": Entry(
        "backbones/unet_residual.py", "segmentation", _UNET, 2015, "arXiv:1505.04597", "instances", "nuclei"
    ),
    "unet_residual_large": Entry(
        "backbones/unet_residual.py", "segmentation", _UNET, 2015, "arXiv:1505.04597", "instances"
    ),
    "unet_residual_tiny": Entry(
        "backbones/unet_residual.py", "segmentation", _UNET, 2015, "arXiv:1505.04597", "instances"
    ),
}

OBJECTIVES = {
    "instances": Objective("segmentation/instances.py", "InstanceSegmentation", "InstancesConfig"),
    "unet": Objective("backbones/unet.py", "UNetSegmentation", "UNetOptions"),
    "falk": Objective("backbones/unet_falk.py", "FalkSegmentation", "UNetOptions"),
    "classification": Objective("backbones/classification.py", "Classification", "ClassificationOptions"),
    "falk_detection": Objective("backbones/unet_falk.py", "FalkDetection", "UNetOptions"),
}


def entry(name: str) -> Entry:
    """Look a network up; an unknown name fails with the nearest right one."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`abbe models` lists all"
        raise AbbeError(f"no network is called {name!r}; {hint}")
    return ENTRIES[name]


def variant(name: str) -> Any:
    """Give the config of a network, a dataclass."""
    return module_of(entry(name).file).VARIANTS[name]


def module_of(file: str) -> Any:
    """Import a method's file."""
    return import_module("abbe.methods." + file.removesuffix(".py").replace("/", "."))


def tables_of(file: str) -> Any:
    """Import what is known of the published weights of a method's file; None where nobody published any.

    It is the file of the same name in ``abbe/weights/tables/`` and has ``LAYOUTS``, the key tables; ``PUBLISHED``, the
    files; ``STEM``, our names of the tensors whose second axis is the image's channels; and ``HEAD``, the beginnings of
    our names of the tensors whose first axis is the classes.
    """
    name = f"abbe.weights.tables.{PurePosixPath(file).stem}"
    return import_module(name) if find_spec(name) else None


def published() -> list[Any]:
    """List every published file that is known, an :class:`~abbe.weights.published.Published` each."""
    tables = [tables_of(file) for file in dict.fromkeys(known.file for known in ENTRIES.values())]
    return [record for table in tables if table is not None for record in table.PUBLISHED]
