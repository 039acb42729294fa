"""Predicts images, with an export or with the weights of a run: classes, or boxes if it is a detector.

python tools/infer.py --model output/quickstart/export --input photos/ --save predictions.png
python tools/infer.py -c CONFIG -o Global.pretrained_model=CHECKPOINT --input a.jpg "more/*.png" --json out.json
python tools/infer.py -c DETECTION_CONFIG -o weights=CHECKPOINT --input frames/ --save drawn/ --coco found.json
python tools/infer.py -c CONFIG -o ... --input photos/ --save why/ --explain --embeddings features.npz

The options and what they do are in ppcls_ext/runtime/command.py, which an installed package runs as econvnext-predict;
here is what needs the training packages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import run

if TYPE_CHECKING:
    from ppcls_ext.runtime.command import Opened


def open_run(arguments: argparse.Namespace) -> Opened:
    """Opens the weights of the run that ``-c`` describes; returns the predictor, the inputs and the batch size."""
    from ppcls_ext.runtime.command import claim
    from ppcls_ext.utils.config import is_detection_config
    from ppcls_ext.utils.outputs import inputs_of

    inputs, batch_size, limit = arguments.input, arguments.batch_size or 8, arguments.max_resized_megapixels
    if is_detection_config(arguments.config):
        from detection.configuration import load_config

        config: Any = load_config(arguments.config, arguments.override)
        claim(arguments, inputs, inputs_of(config.document)[0])

        from detection.task import open_environment
        from detection.trained import load_trained

        open_environment(config)
        return load_trained(config).predictor(limit), inputs, batch_size

    from classification.config import load_config

    config = load_config(arguments.config, arguments.override)
    if config.infer is not None:
        inputs = inputs or ([config.infer.infer_imgs] if config.infer.infer_imgs else [])
        batch_size = arguments.batch_size or config.infer.batch_size
    claim(arguments, inputs, inputs_of(config.document)[0])

    from classification.trained import load_trained
    from ppcls_ext.engine.environment import prepare_environment

    prepare_environment(config.run.device, config.run.seed)
    return load_trained(config).predictor(limit), inputs, batch_size


def read_listing(annotations: Path) -> Any:
    """Returns the images and classes of a COCO file, which need not have annotations, by the rules of training."""
    from detection.annotations import Ledger
    from detection.coco import load_coco, read_coco

    return read_coco(annotations, Ledger(), content=load_coco(annotations, ("images", "categories")))


def look_inside(arguments: argparse.Namespace, predictor: Any) -> tuple[Any, Any]:
    """Returns what draws an explanation, for ``--explain``, and what gathers and writes features, or None."""
    if arguments.explain is None and not arguments.embeddings and not arguments.neighbours:
        return None, None
    from ppcls_ext.deploy.inspection import Features
    from ppcls_ext.runtime import DetectionPredictor

    if isinstance(predictor, DetectionPredictor):
        from detection import explain
    else:
        from classification import explain
    draw = None if arguments.explain is None else explain.explainer(predictor, arguments.explain)
    return draw, Features(*explain.feature_layers(predictor)) if arguments.embeddings or arguments.neighbours else None


def main() -> None:
    """Hands the command what needs the training packages."""
    from ppcls_ext.runtime.command import predict

    predict(open_run, read_listing, look_inside)


if __name__ == "__main__":
    run(main)
