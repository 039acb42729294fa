"""The name that was probably meant: slips and left-out parts are recognised, a name that merely looks alike is not."""

from __future__ import annotations

from ppcls_ext.utils.errors import nearest_names, suggestion

SLIPS = {
    "epcoh": "epoch", "epoch": "epochs", "batchsize": "batch_size", "top": "topk", "drop_path": "drop_path_rate",
    "XL": "X", "Cosine": "CosineDecay", "fp23": "fp32", "adamw": "AdamW", "EConvNext2": "EConvNeXt",
}  # fmt: skip
ALIKE = {
    "sampler": "scale", "tta": "trt", "mixup": "setup", "early_stopping": "milestones", "ema": "seed", "lr": "lars",
    "device": "decay",
}  # fmt: skip


def test_slips_and_left_out_parts_but_not_what_merely_looks_alike() -> None:
    others = ["scale", "trt", "anchors", "use_gpu", "norm_type", "milestones"]
    for name, meant in SLIPS.items():
        assert suggestion(name, [*others, meant]) == f" (did you mean '{meant}'?)"
    for name, other in ALIKE.items():
        assert suggestion(name, [other]) == "", name


def test_the_best_comes_first_and_no_more_than_asked_for() -> None:
    allowed = ["EConvNeXt_tiny", "EConvNeXt_mini", "ConvNeXtV1_tiny", "ResNet50"]
    assert nearest_names("EConvNeXt_mni", allowed)[0] == "EConvNeXt_mini"
    assert nearest_names("EConvNeXt", allowed, count=1) == ["EConvNeXt_tiny"]
    assert nearest_names("anything", []) == []
