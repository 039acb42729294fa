"""Takes the logits out of a model's output: some of PaddleClas's models return dictionaries or lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import paddle


def logits_of(output: Any) -> paddle.Tensor:
    """Returns the logits ``[N, class_num]`` of what a model returned.

    Args:
        output: a tensor; PaddleClas's dictionary with the key ``logits``; or a list whose first entry they are, before
            those of auxiliary classifiers (GoogLeNet).
    """
    if isinstance(output, dict):
        return output["logits"]
    return output[0] if isinstance(output, list | tuple) else output
