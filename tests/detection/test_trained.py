"""What is said of a configuration whose readers contradict each other, before its detector is used."""

from __future__ import annotations

import copy
import logging

from detection.configuration import load_config
from detection.configuration.config import warn_of_other_contrast
from tests.support.runs import ROOT

SONAR = ROOT / "configs" / "detection" / "ppyoloe" / "ppyoloe_s_econvnext_mini_sonar.yml"


def test_contrast_other_than_in_training_is_told(caplog):
    config = load_config(SONAR)
    with caplog.at_level(logging.WARNING):
        warn_of_other_contrast(config, "Test")
    assert caplog.text == ""
    steps = config.data["TestReader"]["sample_transforms"] = copy.deepcopy(
        config.data["TestReader"]["sample_transforms"]
    )
    (enhance,) = [step for step in steps if "SonarEnhance" in step]
    enhance["SonarEnhance"]["method"] = "log"
    with caplog.at_level(logging.WARNING):
        warn_of_other_contrast(config, "Test")
    assert "TrainReader has [{'method': 'equalize'}]" in caplog.text and "[{'method': 'log'}]" in caplog.text
