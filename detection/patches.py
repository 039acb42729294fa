"""Patches by which PaddleDetection's unmodified scripts run with today's Paddle; for ``python -m detection`` only.

Our own tools go round these faults without any patch. Each entry names its upstream issue, and has a test that fails
once it is no longer needed.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detection.schedule import EPOCHS, LENGTHS, fit
from ppcls_ext.engine.plan import scale_rate
from ppcls_ext.utils.config import Document, flatten
from ppcls_ext.utils.lengths import follow_epochs

logger = logging.getLogger(__name__)

# Paddle's switch for graphs that fall back to Python; it is read whenever `to_static` is called without `full_graph`.
FALL_BACK = "ENABLE_FALL_BACK"


def apply() -> None:
    """Applies every patch to the ``ppdet`` that Python finds first. May be called again."""
    convert_whole_graphs()
    restore_textsize()
    replace_missing_font()
    follow_run_length()
    concatenate_numbers()


def convert_whole_graphs() -> None:
    """Lets the exporter of 2.6 convert whole graphs: it needs one, but does not ask for it as Paddle 3 expects.

    Upstream: PaddleDetection issues 8692 and 8941, mended after 2.7. A value that the user has set stays.
    """
    os.environ.setdefault(FALL_BACK, "False")


def restore_textsize() -> None:
    """Gives Pillow 10 its ``textsize`` back, by which 2.6 names boxes: PaddleDetection issue 8418, mended after 2.7."""
    from PIL import ImageDraw

    def textsize(self: Any, text: str, font: Any = None) -> tuple[int, int]:
        left, top, right, bottom = self.textbbox((0, 0), text, font=font)
        return int(right - left), int(bottom - top)

    if not hasattr(ImageDraw.ImageDraw, "textsize"):
        ImageDraw.ImageDraw.textsize = textsize


def concatenate_numbers() -> None:
    """Lets ``paddle.concat`` join tensors without axes, as which Paddle 3 gives the counts of Faster R-CNN's proposals
    (``RPNHead._gen_proposal`` of 2.6, mended after 2.7)."""
    import paddle

    concat = paddle.concat
    if hasattr(concat, "of_numbers"):
        return

    @functools.wraps(concat)
    def with_numbers(x: Any, *arguments: Any, **options: Any) -> paddle.Tensor:
        if isinstance(x, list) and x and all(part.ndim == 0 for part in x):
            x = [part.reshape([1]) for part in x]
        return concat(x, *arguments, **options)

    with_numbers.of_numbers = True
    paddle.concat = with_numbers


def replace_missing_font() -> None:
    """Lets newer trees draw without a network: they download a font first; matplotlib's takes its place.

    Upstream: the address stands in ``ppdet/utils/visualizer.py`` (``draw_bbox``); 2.6 downloads nothing.
    """
    from ppdet.utils import visualizer

    download: Callable[..., tuple[str, bool]] | None = getattr(visualizer, "get_path", None)
    if download is None or hasattr(download, "without_network"):
        return

    def get_path(url: str, *arguments: Any, **options: Any) -> tuple[str, bool]:
        try:
            return download(url, *arguments, **options)
        except OSError as error:
            if not url.endswith(".ttf"):
                raise
            from matplotlib.font_manager import findfont

            logger.debug("%s: %s", url, error)
            return findfont("DejaVu Sans"), True

    get_path.without_network = download
    visualizer.get_path = get_path


def follow_run_length() -> None:
    """Lets the learning rate follow ``epoch`` and ``tuned_batch_size`` as in our own trainer; upstream, it does not."""
    from paddle.distributed import get_world_size
    from ppdet.core import workspace
    from ppdet.optimizer.optimizer import LearningRate

    plan, merge = LearningRate.__call__, workspace.merge_config
    if hasattr(plan, "without_run"):
        return

    def fitted(self: Any, step_per_epoch: int) -> Any:
        rate, settings = copy.deepcopy(self), workspace.global_config
        images, key = settings["TrainReader"].get("batch_size", 1) * get_world_size(), "tuned_batch_size"
        factor, notes, _ = scale_rate(float(rate.base_lr), settings.get(key), images, key)
        for note in (*notes, *fit(rate, settings[EPOCHS], int(step_per_epoch), factor)):
            logger.warning("%s", note)
        return plan(rate, step_per_epoch)

    def merged(config: dict[str, Any], another_cfg: dict[str, Any] | None = None) -> dict[str, Any]:
        before, stated = (another_cfg or workspace.global_config).get(EPOCHS), flatten(config)
        result = merge(config, another_cfg)
        head = (result.get(result.get("architecture")) or {}).get("yolo_head")
        names = (EPOCHS, "TrainReader", *([head] if isinstance(head, str) else []))
        sections = {name: result[name] for name in names if name in result}
        schedulers = (result.get("LearningRate") or {}).get("schedulers") or []
        # Those of a YAML tag are objects; a change of their attributes is one of the configuration.
        plain = [entry if isinstance(entry, dict) else vars(entry) for entry in schedulers]
        document = Document(Path(), {**sections, "LearningRate": {"schedulers": plain}}, {})
        follow_epochs(document, EPOCHS, LENGTHS, before, stated.__contains__)
        for note in document.notes:
            logger.warning("%s", note)
        return result

    fitted.without_run = plan
    LearningRate.__call__, workspace.merge_config = fitted, merged
