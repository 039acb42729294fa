"""Non-maximum suppression for ppdet's heads that can be exported: ``PPYOLOEHead.nms.name: MultiClassNMS3``.

ppdet's own ``MultiClassNMS`` builds an operator of Paddle 2's graphs, which Paddle 3 cannot save.
"""

from __future__ import annotations

import numpy as np
import paddle
from ppdet.core.workspace import register

from ppcls_ext.runtime.nms import NmsSettings, suppress_across_classes


@register
class MultiClassNMS3:
    """Keeps the best of the boxes that overlap, class by class; the same arguments and results as ``MultiClassNMS``.

    Args:
        score_threshold: candidates with a lower or equal score are dropped.
        nms_top_k: so many best candidates of each class and image enter the comparison; -1 takes all.
        keep_top_k: at most so many boxes of an image are kept, over all classes; -1 keeps all.
        nms_threshold: of two boxes of a class whose intersection over union is larger, the lower-scored one is dropped.
        normalized: coordinates are fractions; if not, a box from pixel 3 to pixel 5 is 3 pixels wide.
        nms_eta: below 1, the threshold (while above 0.5) is multiplied by it after each box that is kept.
        background_label: a class that is left out; -1 leaves out none.
        return_index: also return where each kept box stood among the candidates.
        return_rois_num: also return the number of boxes of each image.
        class_agnostic: thin out what is left once more, whatever the classes; in the graph of an export the runtime
            does that, as ``inference.yml`` says.

    Raises:
        ValueError: a value is out of range; the message begins with its name.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        nms_top_k: int = -1,
        keep_top_k: int = 100,
        nms_threshold: float = 0.5,
        normalized: bool = True,
        nms_eta: float = 1.0,
        background_label: int = -1,
        return_index: bool = False,
        return_rois_num: bool = True,
        class_agnostic: bool = False,
    ) -> None:
        for name, value in (("nms_top_k", nms_top_k), ("keep_top_k", keep_top_k)):
            if value != -1 and value < 1:
                raise ValueError(f"{name}: must be a positive number or -1 (all), got {value}")
        if not 0 < nms_threshold <= 1:
            raise ValueError(f"nms_threshold: must be above 0 and at most 1, got {nms_threshold}")
        if not 0 < nms_eta <= 1:
            raise ValueError(f"nms_eta: must be above 0 and at most 1, got {nms_eta}")
        self.score_threshold = float(score_threshold)
        self.nms_top_k = nms_top_k
        self.keep_top_k = keep_top_k
        self.nms_threshold = float(nms_threshold)
        self.normalized = normalized
        self.nms_eta = float(nms_eta)
        self.background_label = background_label
        self.return_index = return_index
        self.return_rois_num = return_rois_num
        self.class_agnostic = class_agnostic
        if class_agnostic and return_index:
            raise ValueError("class_agnostic: goes without return_index")

    def __call__(
        self,
        bboxes: paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor],
        score: paddle.Tensor,
        background_label: int = -1,
    ) -> tuple[paddle.Tensor, paddle.Tensor | None, paddle.Tensor | None]:
        """Works in eager mode, in the graphs of Paddle 3, and in those of Paddle 2 (by ppdet's own function).

        Args:
            bboxes: ``[N, M, 4]`` corners; or ``([M, C, 4], [N] boxes of each image)``.
            score: ``[N, C, M]``, or ``[M, C]`` beside the second form.
            background_label: replaces that of the constructor if it is not -1.

        Returns:
            Boxes ``float32 [K, 6]`` (class, score, x1, y1, x2, y2), those of the first image first; counts
            ``int32 [N]``, which add up to K, or None; index ``int32 [K, 1]``, or None. Without any detection K is 0.
        """
        boxes, counts_in = bboxes if isinstance(bboxes, tuple) else (bboxes, None)
        background = background_label if background_label > -1 else self.background_label
        if paddle.in_dynamic_mode() or paddle.framework.in_pir_mode():
            kept, index, counts = paddle._C_ops.multiclass_nms3(
                boxes, score, counts_in, self.score_threshold, self.nms_top_k, self.keep_top_k, self.nms_threshold,
                self.normalized, self.nms_eta, background,
            )  # fmt: skip
        else:
            from ppdet.modeling import ops

            kept, counts, index = ops.multiclass_nms(
                boxes, score, self.score_threshold, self.nms_top_k, self.keep_top_k, self.nms_threshold,
                self.normalized, self.nms_eta, background, return_index=True, rois_num=counts_in,
            )  # fmt: skip
        if self.class_agnostic and paddle.in_dynamic_mode():
            parts = np.split(kept.numpy().reshape(-1, 6), np.cumsum(counts.numpy())[:-1])
            settings = NmsSettings(nms_threshold=self.nms_threshold, normalized=self.normalized)
            parts = [suppress_across_classes(rows, settings) for rows in parts]
            kept = paddle.to_tensor(np.concatenate(parts))
            counts = paddle.to_tensor(np.array([len(rows) for rows in parts], np.int32))
        return kept, counts if self.return_rois_num else None, index if self.return_index else None
