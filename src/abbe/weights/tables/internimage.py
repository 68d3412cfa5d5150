"""Published tensors of InternImage (arXiv:2211.05778): the authors' checkpoints, alone and wrapped for transformers."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Layout

STEM = ("stem.conv1.weight",)
HEAD = ("classifier.",)

_RULES = (
    ("patch_embed.conv{n}.{LEAF}", "stem.conv{n}.{LEAF}"),
    ("patch_embed.norm{n}.1.{LEAF}", "stem.norm{n}.{LEAF}"),
    ("levels.{s}.blocks.{b}.norm1.0.{LEAF}", "stages.{s}.blocks.{b}.spatial.norm.{LEAF}"),
    ("levels.{s}.blocks.{b}.norm2.0.{LEAF}", "stages.{s}.blocks.{b}.channel.norm.{LEAF}"),
    ("levels.{s}.blocks.{b}.res_post_norm1.0.{LEAF}", "stages.{s}.blocks.{b}.spatial.second_norm.{LEAF}"),
    ("levels.{s}.blocks.{b}.res_post_norm2.0.{LEAF}", "stages.{s}.blocks.{b}.channel.second_norm.{LEAF}"),
    ("levels.{s}.blocks.{b}.gamma1", "stages.{s}.blocks.{b}.spatial.gamma"),
    ("levels.{s}.blocks.{b}.gamma2", "stages.{s}.blocks.{b}.channel.gamma"),
    ("levels.{s}.blocks.{b}.dcn.dw_conv.0.{LEAF}", "stages.{s}.blocks.{b}.spatial.layer.depthwise.{LEAF}"),
    ("levels.{s}.blocks.{b}.dcn.dw_conv.1.1.{LEAF}", "stages.{s}.blocks.{b}.spatial.layer.norm.{LEAF}"),
    ("levels.{s}.blocks.{b}.dcn.offset.{LEAF}", "stages.{s}.blocks.{b}.spatial.layer.offset.{LEAF}"),
    ("levels.{s}.blocks.{b}.dcn.mask.{LEAF}", "stages.{s}.blocks.{b}.spatial.layer.mask.{LEAF}"),
    ("levels.{s}.blocks.{b}.dcn.input_proj.{LEAF}", "stages.{s}.blocks.{b}.spatial.layer.input_projection.{LEAF}"),
    ("levels.{s}.blocks.{b}.dcn.output_proj.{LEAF}", "stages.{s}.blocks.{b}.spatial.layer.output_projection.{LEAF}"),
    (
        "levels.{s}.blocks.{b}.dcn.center_feature_scale_proj_{LEAF}",
        "stages.{s}.blocks.{b}.spatial.layer.center_scale.{LEAF}",
    ),
    ("levels.{s}.blocks.{b}.mlp.fc{n}.{LEAF}", "stages.{s}.blocks.{b}.channel.layer.fc{n}.{LEAF}"),
    ("levels.{s}.post_norms.{n}.0.{LEAF}", "stages.{s}.extra_norms.{n}.{LEAF}"),
    ("levels.{s}.norm.0.{LEAF}", "stages.{s}.norm.{LEAF}"),
    ("levels.{s}.downsample.conv.{LEAF}", "stages.{s}.downsample.conv.{LEAF}"),
    ("levels.{s}.downsample.norm.1.{LEAF}", "stages.{s}.downsample.norm.{LEAF}"),
    ("conv_head.0.{LEAF}", "head.conv.{LEAF}"),
    ("conv_head.1.0.{LEAF}", "head.norm.{LEAF}"),
    ("dcnv3_head_x3.{LEAF}", "head.fine.{LEAF}"),
    ("dcnv3_head_x4.0.{LEAF}", "head.coarse.{LEAF}"),
    ("clip_projector.norm1_q.0.{LEAF}", "head.norm_query.{LEAF}"),
    ("clip_projector.norm1_k.0.{LEAF}", "head.norm_key.{LEAF}"),
    ("clip_projector.norm1_v.0.{LEAF}", "head.norm_value.{LEAF}"),
    ("clip_projector.cross_dcn.q.weight", "head.query.weight"),
    ("clip_projector.cross_dcn.k.weight", "head.key.weight"),
    ("clip_projector.cross_dcn.v.weight", "head.value.weight"),
    ("clip_projector.cross_dcn.q_bias", "head.query.bias"),
    ("clip_projector.cross_dcn.k_bias", "head.key.bias"),
    ("clip_projector.cross_dcn.v_bias", "head.value.bias"),
    ("clip_projector.cross_dcn.proj.{LEAF}", "head.projection.{LEAF}"),
    ("fc_norm.0.{LEAF}", "head.norm_features.{LEAF}"),
    ("head.{LEAF}", "classifier.{LEAF}"),
)

LAYOUTS = (
    Layout("OpenGVLab", _RULES),
    Layout("transformers", tuple((f"model.{theirs}", ours) for theirs, ours in _RULES)),
)

_FILES = "https://huggingface.co/OpenGVLab/InternImage/resolve/main/"
_LICENCE = "MIT"
_JOINT = "427 million pictures, then ImageNet-22k"
_22K = {"num_classes": 21841}

PUBLISHED = (
    Published("internimage_tiny", f"{_FILES}internimage_t_1k_224.pth", _LICENCE, top1=83.5, parameters=29_918_424),
    Published("internimage_small", f"{_FILES}internimage_s_1k_224.pth", _LICENCE, top1=84.2, parameters=50_079_880),
    Published("internimage_base", f"{_FILES}internimage_b_1k_224.pth", _LICENCE, top1=84.9, parameters=97_461_832),
    Published(
        "internimage_large",
        f"{_FILES}internimage_l_22kto1k_384.pth",
        _LICENCE,
        data="ImageNet-22k, then ImageNet-1k",
        size=384,
        top1=87.7,
        parameters=223_334_810,
    ),
    Published(
        "internimage_xlarge",
        f"{_FILES}internimage_xl_22kto1k_384.pth",
        _LICENCE,
        data="ImageNet-22k, then ImageNet-1k",
        size=384,
        top1=88.0,
        parameters=334_819_780,
    ),
    Published(
        "internimage_huge",
        f"{_FILES}internimage_h_22kto1k_640.pth",
        _LICENCE,
        data=f"{_JOINT}, then ImageNet-1k",
        size=640,
        top1=89.6,
        parameters=1_089_636_760,
    ),
    Published(
        "internimage_large",
        f"{_FILES}internimage_l_22k_192to384.pth",
        _LICENCE,
        config=_22K,
        data="ImageNet-22k",
        size=384,
        parameters=263_370_371,
    ),
    Published(
        "internimage_xlarge",
        f"{_FILES}internimage_xl_22k_192to384.pth",
        _LICENCE,
        config=_22K,
        data="ImageNet-22k",
        size=384,
        parameters=382_858_285,
    ),
    Published(
        "internimage_huge",
        f"{_FILES}internimage_h_jointto22k_384.pth",
        _LICENCE,
        config=_22K,
        data=_JOINT,
        size=384,
        parameters=1_105_663_489,
    ),
)
