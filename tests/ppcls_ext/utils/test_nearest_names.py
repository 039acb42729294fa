"""The name that was probably meant."""

from __future__ import annotations

from ppcls_ext.utils.errors import nearest_names, suggestion


def test_slips_are_recognised_and_names_that_merely_look_alike_are_not() -> None:
    others = ["scale", "trt", "anchors", "use_gpu", "norm_type", "milestones"]
    slips = {"epcoh": "epoch", "top": "topk", "drop_path": "drop_path_rate", "XL": "X", "adamw": "AdamW"}
    for name, meant in slips.items():
        assert suggestion(name, [*others, meant]) == f" (did you mean '{meant}'?)"
    for name, other in {"mixup": "setup", "ema": "seed", "device": "decay"}.items():
        assert suggestion(name, [other]) == "", name
    assert nearest_names("EConvNeXt_mni", ["EConvNeXt_tiny", "EConvNeXt_mini", "ResNet50"])[0] == "EConvNeXt_mini"
    assert nearest_names("anything", []) == []
