"""Every public name, in one literal table; nothing registers itself, and looking here imports no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
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


_UNET = Entry(
    "backbones/unet.py",
    "segmentation",
    "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    2015,
    "arXiv:1505.04597",
    "unet",
)
_UNET_RESIDUAL = replace(_UNET, file="backbones/unet_residual.py", objective="instances")
_UNET_3D = Entry(
    "backbones/unet_3d.py",
    "segmentation",
    "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation",
    2016,
    "arXiv:1606.06650",
    "instances",
)
_FALK = Entry(
    "backbones/unet_falk.py",
    "segmentation",
    "U-Net: deep learning for cell counting, detection, and morphometry",
    2019,
    "doi:10.1038/s41592-018-0261-2",
    "falk",
)
_DNCNN = Entry(
    "restoration/dncnn.py",
    "restoration",
    "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
    2017,
    "arXiv:1608.03981",
    "restoration",
)
_NOISE2VOID = Entry(
    "restoration/noise2void.py",
    "restoration",
    "Noise2Void - Learning Denoising from Single Noisy Images",
    2019,
    "arXiv:1811.10980",
    "noise2void",
    "noise2void",
)
_N2V2 = Entry(
    "restoration/n2v2.py",
    "restoration",
    "N2V2 - Fixing Noise2Void Checkerboard Artifacts with Modified Sampling Strategies and a Tweaked Network "
    "Architecture",
    2022,
    "arXiv:2211.08512",
    "n2v2",
    "n2v2",
)
_STRUCTN2V = Entry(
    "restoration/structn2v.py",
    "restoration",
    "Removing Structured Noise with Self-Supervised Blind-Spot Networks",
    2020,
    "doi:10.1109/ISBI45749.2020.9098336",
    "structn2v",
    "structn2v",
)
_INTERNIMAGE = Entry(
    "backbones/internimage.py",
    "classification",
    "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions",
    2023,
    "arXiv:2211.05778",
    "classification",
)

_VIT = Entry(
    "attention/vit.py",
    "classification",
    "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    2021,
    "arXiv:2010.11929",
    "classification",
)
_VIT_ROPE = Entry(
    "attention/vit_rope.py",
    "classification",
    "Rotary Position Embedding for Vision Transformer",
    2024,
    "arXiv:2403.13298",
    "classification",
)
_TRANSFORMER = Entry(
    "attention/transformer.py", "translation", "Attention Is All You Need", 2017, "arXiv:1706.03762", "translation"
)
_ROFORMER = Entry(
    "attention/roformer.py",
    "masked tokens",
    "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    2021,
    "arXiv:2104.09864",
    "masked_tokens",
)
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
_NAFNET = Entry(
    "restoration/nafnet.py",
    "restoration",
    "Simple Baselines for Image Restoration",
    2022,
    "arXiv:2204.04676",
    "restoration",
)

ENTRIES = {
    "alexnet_2012": replace(_ALEXNET, recipe="alexnet_2012"),
    "alexnet": _ALEXNET,
    "alexnet_tiny": _ALEXNET,
    "convnext_tiny": replace(_CONVNEXT, recipe="convnext_tiny"),
    "convnext_small": _CONVNEXT,
    "convnext_base": _CONVNEXT,
    "convnext_large": _CONVNEXT,
    "convnext_xlarge": _CONVNEXT,
    "convnext_test_tiny": _CONVNEXT,
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": replace(_RESNET, recipe="resnet50"),
    "resnet101": _RESNET,
    "resnet152": _RESNET,
    "resnet50_v1": _RESNET,
    "resnet101_v1": _RESNET,
    "resnet152_v1": _RESNET,
    "resnet20_cifar": replace(_RESNET, recipe="resnet20_cifar"),
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
    "unet_2015": replace(_UNET, recipe="unet_2015"),
    "unet_2015_tiny": _UNET,
    "unet_falk_2d": replace(_FALK, recipe="unet_falk_2d"),
    "unet_falk_2d_tiny": _FALK,
    "unet_falk_3d": _FALK,
    "unet_falk_3d_tiny": _FALK,
    "unet_3d": _UNET_3D,
    "unet_3d_small": replace(_UNET_3D, recipe="nuclei_3d"),
    "unet_3d_tiny": _UNET_3D,
    "unet_residual": replace(_UNET_RESIDUAL, recipe="nuclei"),
    "unet_residual_large": _UNET_RESIDUAL,
    "unet_residual_tiny": _UNET_RESIDUAL,
    "internimage_tiny": replace(_INTERNIMAGE, recipe="internimage_tiny"),
    "internimage_small": _INTERNIMAGE,
    "internimage_base": _INTERNIMAGE,
    "internimage_large": _INTERNIMAGE,
    "internimage_xlarge": _INTERNIMAGE,
    "internimage_huge": _INTERNIMAGE,
    "internimage_micro": _INTERNIMAGE,
    "dncnn_s": replace(_DNCNN, recipe="dncnn_s"),
    "dncnn_b": replace(_DNCNN, recipe="dncnn_b"),
    "dncnn_color": replace(_DNCNN, recipe="dncnn_color"),
    "dncnn_3": replace(_DNCNN, recipe="dncnn_3"),
    "dncnn_tiny": _DNCNN,
    "noise2void": replace(_NOISE2VOID, recipe="noise2void_bsd68"),
    "noise2void_library": replace(_NOISE2VOID, recipe="noise2void_library"),
    "noise2void_small": _NOISE2VOID,
    "noise2void_3d": _NOISE2VOID,
    "noise2void_tiny": _NOISE2VOID,
    "n2v2": _N2V2,
    "n2v2_small": _N2V2,
    "n2v2_3d": _N2V2,
    "n2v2_tiny": _N2V2,
    "structn2v": _STRUCTN2V,
    "structn2v_small": _STRUCTN2V,
    "structn2v_3d": _STRUCTN2V,
    "structn2v_tiny": _STRUCTN2V,
    "vit_tiny_patch16_224": _VIT,
    "vit_tiny_patch16_384": _VIT,
    "vit_small_patch32_224": _VIT,
    "vit_small_patch32_384": _VIT,
    "vit_small_patch16_224": _VIT,
    "vit_small_patch16_384": _VIT,
    "vit_base_patch32_224": _VIT,
    "vit_base_patch32_384": _VIT,
    "vit_base_patch16_224": replace(_VIT, recipe="vit_base_patch16_224"),
    "vit_base_patch16_384": _VIT,
    "vit_large_patch32_224": _VIT,
    "vit_large_patch32_384": _VIT,
    "vit_large_patch16_224": _VIT,
    "vit_large_patch16_384": _VIT,
    "vit_large_patch14_224": _VIT,
    "vit_huge_patch14_224": _VIT,
    "vit_patch4_tiny": _VIT,
    "vit_small_patch16_rope_224": _VIT_ROPE,
    "vit_base_patch16_rope_224": _VIT_ROPE,
    "vit_large_patch16_rope_224": _VIT_ROPE,
    "vit_rope_tiny": _VIT_ROPE,
    "transformer_base": replace(_TRANSFORMER, recipe="sequences"),
    "transformer_big": _TRANSFORMER,
    "transformer_tiny": _TRANSFORMER,
    "roformer_base": _ROFORMER,
    "roformer_tiny": _ROFORMER,
    "nafnet_width32": replace(_NAFNET, recipe="nafnet_width32"),
    "nafnet_width64": _NAFNET,
    "nafnet_width32_gopro": replace(_NAFNET, recipe="nafnet_width32_gopro"),
    "nafnet_width64_gopro": _NAFNET,
    "nafnet_tiny": _NAFNET,
}

OBJECTIVES = {
    "instances": Objective("segmentation/instances.py", "InstanceSegmentation", "InstancesConfig"),
    "unet": Objective("backbones/unet.py", "UNetSegmentation", "UNetOptions"),
    "falk": Objective("backbones/unet_falk.py", "FalkSegmentation", "UNetOptions"),
    "falk_detection": Objective("backbones/unet_falk.py", "FalkDetection", "UNetOptions"),
    "restoration": Objective("restoration/restore.py", "Restoration", "RestorationOptions"),
    "noise2void": Objective("restoration/noise2void.py", "Noise2Void", "Noise2VoidOptions"),
    "n2v2": Objective("restoration/n2v2.py", "N2V2", "N2V2Options"),
    "structn2v": Objective("restoration/structn2v.py", "StructN2V", "StructN2VOptions"),
    "classification": Objective("backbones/classification.py", "Classification", "ClassificationOptions"),
    "translation": Objective("attention/translation.py", "Translation", "TranslationOptions"),
    "masked_tokens": Objective("attention/masked_tokens.py", "MaskedTokens", "MaskedTokensOptions"),
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
    files; ``STEM``, our names of the tensors whose second axis is the image's channels; ``HEAD``, the beginnings of our
    names of the tensors whose first axis is the classes; where an image comes out, ``ENDING``, our names of those whose
    first axis is its channels; and ``OPTIONAL``, fields of the config that say how wide a layer is which not every file
    has, with the beginning of our names of its tensors.
    """
    name = f"abbe.weights.tables.{PurePosixPath(file).stem}"
    return import_module(name) if find_spec(name) else None


def published() -> list[Any]:
    """List every published file that is known, an :class:`~abbe.weights.published.Published` each."""
    tables = [tables_of(file) for file in dict.fromkeys(known.file for known in ENTRIES.values())]
    return [record for table in tables if table is not None for record in table.PUBLISHED]
