"""What the teacher's answers cost a student that gives others; all is computed in float32."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle.nn import functional

NORM_EPSILON = 1e-5


def soft_loss(logits: paddle.Tensor, taught: paddle.Tensor, temperature: float) -> paddle.Tensor:
    """Returns ``T^2 * KL(softmax(taught / T) || softmax(logits / T))``, the mean over the images, a scalar.

    Hinton, Vinyals and Dean (arXiv 1503.02531, section 2): a temperature T shows how likely the teacher holds the wrong
    classes to be; T squared keeps the gradient's size, so that the shares of the losses mean the same at every T.

    Args:
        logits: the student's, ``[N, class_num]``.
        taught: the teacher's for the same images, ``[N, class_num]``.
        temperature: T, above 0.
    """
    ours = functional.log_softmax(logits.astype("float32") / temperature, axis=-1)
    theirs = functional.log_softmax(taught.astype("float32") / temperature, axis=-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(axis=-1)
    return divergence.mean() * temperature**2


def hard_loss(logits: paddle.Tensor, taught: paddle.Tensor) -> paddle.Tensor:
    """Returns the mean cross-entropy with the teacher's best class as the label, a scalar.

    Touvron et al. (arXiv 2012.12877, section 4, "hard-label distillation").

    Args:
        logits: the student's, ``[N, class_num]``.
        taught: the teacher's for the same images, ``[N, class_num]``.
    """
    return functional.cross_entropy(logits.astype("float32"), taught.argmax(axis=-1))


def feature_loss(features: Sequence[paddle.Tensor], taught: Sequence[paddle.Tensor]) -> paddle.Tensor:
    """Returns the mean squared difference of normalised features, averaged over the stages, a scalar.

    The student's features were brought to the teacher's width by learnt 1x1 convolutions, as the regressors of FitNets
    (arXiv 1412.6550, section 2.2) do; each position is then normalised over its channels, without learnt scale, as
    in arXiv 2205.14141 (section 2). We normalise both sides, so that neither's scale counts. A teacher's map of another
    size is averaged to the student's (or repeated, where it is smaller).

    Args:
        features: of the student, for each stage ``[N, C_i, H_i, W_i]``.
        taught: of the teacher, for each stage ``[N, C_i, H'_i, W'_i]``.
    """
    losses = []
    for ours, theirs in zip(features, taught, strict=True):
        theirs = theirs.astype("float32")
        if theirs.shape[2:] != ours.shape[2:]:
            theirs = functional.adaptive_avg_pool2d(theirs, ours.shape[2:])
        losses.append(functional.mse_loss(_normalised(ours.astype("float32")), _normalised(theirs)))
    return sum(losses[1:], losses[0]) / len(losses)


def _normalised(features: paddle.Tensor) -> paddle.Tensor:
    """``[N, C, H, W]`` -> ``[N, H, W, C]``, each position with mean 0 and variance 1 over its channels."""
    return functional.layer_norm(features.transpose([0, 2, 3, 1]), features.shape[1], epsilon=NORM_EPSILON)
