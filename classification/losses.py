"""Training and evaluation losses, by the names that PaddleClas's YAML gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ppcls_ext.utils.signature import Limits

if TYPE_CHECKING:
    import paddle


class CELoss:
    """Cross-entropy, with label smoothing (arXiv 1512.00567, section 7), mixed labels (mixup, cutmix), class weights.

    Args:
        epsilon: the share of the probability that is spread evenly over all classes; null or 0 for none.
        weight: its factor in a :class:`WeightedSum`.
    """

    def __init__(
        self, epsilon: Annotated[float, Limits(ge=0, lt=1)] | None = None, weight: Annotated[float, Limits(ge=0)] = 1.0
    ) -> None:
        self.epsilon = epsilon or 0.0
        self.weight = weight

    def __call__(
        self, logits: paddle.Tensor, label: paddle.Tensor, label_mixed: paddle.Tensor | None = None, lam: float = 1.0,
        class_weights: paddle.Tensor | None = None,
    ) -> paddle.Tensor:  # fmt: skip
        """Returns ``lam * CE(label) + (1 - lam) * CE(label_mixed)``, the mean over the images, a float32 scalar.

        Args:
            logits: ``[N, class_num]``, any float type; the loss is computed in float32.
            label, label_mixed: ``[N]``, int64; the second is that of mixup and cutmix, ``None`` where nothing is mixed.
            lam: share of ``label``, 0 to 1.
            class_weights: ``[class_num]``, float32: each CE, smoothing included, times the weight of its label's
                class, so that a weight of 2 does what showing the image twice does; ``None`` for 1.
        """
        from paddle.nn import functional

        log_probabilities = functional.log_softmax(logits.astype("float32"), axis=-1)

        def entropy(label: paddle.Tensor) -> paddle.Tensor:
            if class_weights is None:
                return functional.nll_loss(log_probabilities, label)
            entropies = (1 - self.epsilon) * functional.nll_loss(log_probabilities, label, reduction="none")
            return (class_weights.gather(label) * (entropies - self.epsilon * log_probabilities.mean(axis=-1))).mean()

        loss = lam * entropy(label)
        if label_mixed is not None and lam < 1:
            loss = loss + (1 - lam) * entropy(label_mixed)
        if self.epsilon and class_weights is None:
            # The even share is the same whatever the labels are, so mixing leaves it alone.
            loss = (1 - self.epsilon) * loss - self.epsilon * log_probabilities.mean()
        return loss


LOSSES: dict[str, type] = {"CELoss": CELoss}


class WeightedSum:
    """The losses of a YAML list, each times its ``weight``."""

    def __init__(self, losses: list[CELoss]) -> None:
        self.losses = losses

    def __call__(
        self, logits: paddle.Tensor, label: paddle.Tensor, label_mixed: paddle.Tensor | None = None, lam: float = 1.0,
        class_weights: paddle.Tensor | None = None,
    ) -> paddle.Tensor:  # fmt: skip
        """Returns the weighted sum, a scalar; the arguments are those of :class:`CELoss`."""
        weighted = [loss.weight * loss(logits, label, label_mixed, lam, class_weights) for loss in self.losses]
        return sum(weighted[1:], weighted[0])
