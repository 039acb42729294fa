"""The layouts that we read and write: facts about other code bases, one table each.

Names and shapes follow the code that each ``title`` names; linear layers are ``[out, in]`` in PyTorch, ``[in, out]`` in
Paddle.
"""

from __future__ import annotations

from ppcls_ext.weights.array_forms import (
    FIRST_AXIS,
    LAST_AXIS,
    LINEAR,
    POINTWISE,
    SAME,
    SPARSE_KERNEL,
    SPARSE_LINEAR,
    SPARSE_VECTOR,
    Form,
)
from ppcls_ext.weights.layouts import Layout, Row

V1, V2, ECONVNEXT = "ConvNeXtV1", "ConvNeXtV2", "EConvNeXt"
BLOCK = "stages.{stage}.blocks.{block}"
DOWNSAMPLE = "stages.{stage}.downsample"


def _official(linear: Form) -> tuple[Row, ...]:
    """The names of the official ConvNeXt, which PaddleClas took over with Paddle's form of linear layers."""
    return (
        Row("downsample_layers.0.{layer}.{part}", "stem.{layer}.{part}"),
        Row("downsample_layers.{stage}.{layer}.{part}", f"{DOWNSAMPLE}.{{layer}}.{{part}}"),
        Row("stages.{stage}.{block}.dwconv.{part}", f"{BLOCK}.depthwise.{{part}}"),
        Row("stages.{stage}.{block}.norm.{part}", f"{BLOCK}.norm.{{part}}"),
        Row("stages.{stage}.{block}.pwconv1.weight", f"{BLOCK}.expand.weight", linear),
        Row("stages.{stage}.{block}.pwconv1.bias", f"{BLOCK}.expand.bias"),
        Row("stages.{stage}.{block}.pwconv2.weight", f"{BLOCK}.project.weight", linear),
        Row("stages.{stage}.{block}.pwconv2.bias", f"{BLOCK}.project.bias"),
        Row("stages.{stage}.{block}.gamma", f"{BLOCK}.layer_scale.weight"),
        Row("norm.{part}", "norm.{part}"),
        Row("head.weight", "head.weight", linear),
        Row("head.bias", "head.bias"),
    )


# ConvNeXt V2 shapes what its normalisation learns like a map with the channels last.
GLOBAL_RESPONSE_NORM = (
    Row("stages.{stage}.{block}.grn.gamma", f"{BLOCK}.response_norm.weight", LAST_AXIS),
    Row("stages.{stage}.{block}.grn.beta", f"{BLOCK}.response_norm.bias", LAST_AXIS),
)


def _sparse(prefix: str) -> tuple[Row, ...]:
    """The encoder of the masked autoencoder, whose layers are those of MinkowskiEngine; the stem is an ordinary one."""
    block = f"{prefix}stages.{{stage}}.{{block}}"
    downsample = f"{prefix}downsample_layers.{{stage}}"
    return (
        Row(f"{prefix}downsample_layers.0.{{layer}}.{{part}}", "stem.{layer}.{part}"),
        Row(f"{downsample}.0.ln.{{part}}", f"{DOWNSAMPLE}.0.{{part}}"),
        Row(f"{downsample}.1.kernel", f"{DOWNSAMPLE}.1.weight", SPARSE_KERNEL),
        Row(f"{downsample}.1.bias", f"{DOWNSAMPLE}.1.bias", SPARSE_VECTOR),
        Row(f"{block}.dwconv.kernel", f"{BLOCK}.depthwise.weight", SPARSE_KERNEL),
        Row(f"{block}.dwconv.bias", f"{BLOCK}.depthwise.bias", SPARSE_VECTOR),
        Row(f"{block}.norm.ln.{{part}}", f"{BLOCK}.norm.{{part}}"),
        Row(f"{block}.pwconv1.linear.weight", f"{BLOCK}.expand.weight", SPARSE_LINEAR),
        Row(f"{block}.pwconv1.linear.bias", f"{BLOCK}.expand.bias", SPARSE_VECTOR),
        Row(f"{block}.pwconv2.linear.weight", f"{BLOCK}.project.weight", SPARSE_LINEAR),
        Row(f"{block}.pwconv2.linear.bias", f"{BLOCK}.project.bias", SPARSE_VECTOR),
        Row(f"{block}.grn.gamma", f"{BLOCK}.response_norm.weight", SPARSE_VECTOR),
        Row(f"{block}.grn.beta", f"{BLOCK}.response_norm.bias", SPARSE_VECTOR),
    )


def _timm(linear: Form) -> tuple[Row, ...]:
    """The names of timm. Its small models have 1x1 convolutions in the place of linear layers, but for the last."""
    return (
        Row("stem.{layer}.{part}", "stem.{layer}.{part}"),
        Row("stages.{stage}.downsample.{layer}.{part}", f"{DOWNSAMPLE}.{{layer}}.{{part}}"),
        Row(f"{BLOCK}.conv_dw.{{part}}", f"{BLOCK}.depthwise.{{part}}"),
        Row(f"{BLOCK}.norm.{{part}}", f"{BLOCK}.norm.{{part}}"),
        Row(f"{BLOCK}.mlp.fc1.weight", f"{BLOCK}.expand.weight", linear),
        Row(f"{BLOCK}.mlp.fc1.bias", f"{BLOCK}.expand.bias"),
        Row(f"{BLOCK}.mlp.grn.{{part}}", f"{BLOCK}.response_norm.{{part}}"),
        Row(f"{BLOCK}.mlp.fc2.weight", f"{BLOCK}.project.weight", linear),
        Row(f"{BLOCK}.mlp.fc2.bias", f"{BLOCK}.project.bias"),
        Row(f"{BLOCK}.gamma", f"{BLOCK}.layer_scale.weight"),
        Row("head.norm.{part}", "norm.{part}"),
        Row("head.fc.weight", "head.weight", LINEAR),
        Row("head.fc.bias", "head.bias"),
    )


PADDLECLAS = Layout("PaddleClas's ConvNeXt", (V1,), _official(SAME))
FACEBOOK = Layout(
    "the official repositories of ConvNeXt and ConvNeXt V2",
    (V1, V2),
    (*_official(LINEAR), *GLOBAL_RESPONSE_NORM),
    read_only=(*_sparse("encoder."), *_sparse("")),
    # What the masked autoencoder has behind its encoder.
    unused=(r"(decoder|proj|pred)\..+", "mask_token"),
)
TIMM = Layout("timm's ConvNeXt", (V1, V2), _timm(LINEAR))
TIMM_POINTWISE = Layout("timm's ConvNeXt with 1x1 convolutions", (V1, V2), _timm(POINTWISE))
TORCHVISION = Layout(
    "torchvision's ConvNeXt",
    (V1,),
    (
        Row("features.0.{layer}.{part}", "stem.{layer}.{part}"),
        Row("features.{2*stage+1}.{block}.layer_scale", f"{BLOCK}.layer_scale.weight", FIRST_AXIS),
        Row("features.{2*stage+1}.{block}.block.0.{part}", f"{BLOCK}.depthwise.{{part}}"),
        Row("features.{2*stage+1}.{block}.block.2.{part}", f"{BLOCK}.norm.{{part}}"),
        Row("features.{2*stage+1}.{block}.block.3.weight", f"{BLOCK}.expand.weight", LINEAR),
        Row("features.{2*stage+1}.{block}.block.3.bias", f"{BLOCK}.expand.bias"),
        Row("features.{2*stage+1}.{block}.block.5.weight", f"{BLOCK}.project.weight", LINEAR),
        Row("features.{2*stage+1}.{block}.block.5.bias", f"{BLOCK}.project.bias"),
        Row("features.{2*stage}.{layer}.{part}", f"{DOWNSAMPLE}.{{layer}}.{{part}}"),
        Row("classifier.0.{part}", "norm.{part}"),
        Row("classifier.2.weight", "head.weight", LINEAR),
        Row("classifier.2.bias", "head.bias"),
    ),
)
REFERENCE = Layout(
    "the paper's repository",
    (ECONVNEXT,),
    (
        Row("Down_Conv.conv{layer+1}.conv.{part}", "stem.{layer}.conv.{part}"),
        Row("Down_Conv.conv{layer+1}.bn.{part}", "stem.{layer}.norm.{part}"),
        Row("stages.{stage}.down.0.conv.{part}", f"{DOWNSAMPLE}.conv.{{part}}"),
        Row("stages.{stage}.down.0.bn.{part}", f"{DOWNSAMPLE}.norm.{{part}}"),
        Row("stages.{stage}.conv1.conv.{part}", "stages.{stage}.shortcut.conv.{part}"),
        Row("stages.{stage}.conv1.bn.{part}", "stages.{stage}.shortcut.norm.{part}"),
        Row("stages.{stage}.conv2.conv.{part}", "stages.{stage}.entry.conv.{part}"),
        Row("stages.{stage}.conv2.bn.{part}", "stages.{stage}.entry.norm.{part}"),
        Row("stages.{stage}.conv3.conv.{part}", "stages.{stage}.merge.conv.{part}"),
        Row("stages.{stage}.conv3.bn.{part}", "stages.{stage}.merge.norm.{part}"),
        Row("stages.{stage}.attn.fc.{part}", "stages.{stage}.attention.conv.{part}"),
        Row(f"{BLOCK}.dwconv.{{part}}", f"{BLOCK}.depthwise.{{part}}"),
        Row(f"{BLOCK}.norm.{{part}}", f"{BLOCK}.norm.{{part}}"),
        Row(f"{BLOCK}.pwconv1.{{part}}", f"{BLOCK}.expand.{{part}}"),
        Row(f"{BLOCK}.pwconv2.{{part}}", f"{BLOCK}.project.{{part}}"),
        Row(f"{BLOCK}.norm2.{{part}}", f"{BLOCK}.project_norm.{{part}}"),
        Row(f"{BLOCK}.ese.fc.{{part}}", f"{BLOCK}.attention.conv.{{part}}"),
        Row("norm.{part}", "norm.{part}"),
        Row("head.fc_cls.{part}", "head.{part}"),
    ),
    # The layer scale that the attention replaced, and the batch norms of detector features.
    unused=(r"stages\.\d\.blocks\.\d+\.gamma", r"norms\.\d\..+"),
)
OURS = Layout("this project", (), (Row("{name}", "{name}"),))

# Whose weights are read, by the name on the command line.
LAYOUTS: dict[str, Layout] = {
    "facebook": FACEBOOK,
    "ours": OURS,
    "paddleclas": PADDLECLAS,
    "reference": REFERENCE,
    "timm": TIMM,
    "torchvision": TORCHVISION,
}
# Whose form is written. Not the reference's: what it holds beyond our models cannot be made up.
TARGETS = ("facebook", "ours", "paddleclas", "timm", "torchvision")
# Our models that timm builds with 1x1 convolutions.
POINTWISE_IN_TIMM = ("ConvNeXtV2_atto", "ConvNeXtV2_femto", "ConvNeXtV2_pico", "ConvNeXtV2_nano")


def layout_to_write(target: str, model_name: str) -> Layout:
    """Returns the layout ``target`` (one of ``TARGETS``) as it holds the weights of ``model_name``."""
    if target == "timm" and model_name in POINTWISE_IN_TIMM:
        return TIMM_POINTWISE
    return LAYOUTS[target]
