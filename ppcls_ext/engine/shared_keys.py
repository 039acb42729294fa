"""Keys of a run that mean the same under a classifier's ``Global`` and at the top of a detector's configuration."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ppcls_ext.engine.class_balance import RULES
from ppcls_ext.engine.loggers import LoggerName
from ppcls_ext.engine.plan import EarlyStopping
from ppcls_ext.utils.errors import suggestion
from ppcls_ext.utils.schema import Count, CountOrZero, Number, Positive, Section


def _check_weights(stated: Any) -> Any:
    """Returns what ``class_balance.class_weights`` takes, or ``None``; whose classes these are only the data tell."""
    numbers = list(stated.values()) if isinstance(stated, dict) else stated
    if stated in (None, *RULES) or (
        isinstance(numbers, list) and all(type(each) in (int, float) and 0 <= each < math.inf for each in numbers)
    ):
        return stated
    near = suggestion(str(stated), RULES)
    wanted = f"{', '.join(RULES)}, a list of numbers (one a class, 0 or more) or numbers by class"
    raise ValueError(f"must be {wanted} such as {{cat: 2}}, got {stated!r}{near}")


class SharedKeys(Section):
    """Plan of the run, loggers, rare classes, frozen parts and rates by depth; null or empty changes nothing.

    Attributes:
        early_stopping: ends a run whose metric no longer rises: ``{patience: 10, min_delta: 0}``.
        tuned_batch_size: images of a step that the learning rate was tuned for; with others it is scaled alike.
        loggers: who gets the curves beside ``log.jsonl``, see `loggers.LOGGERS`.
        class_weights: what an example of each class counts in the loss, see `class_balance.class_weights`.
        freeze_stages: the stem and so many stages do not learn.
        freeze_epochs: they do learn after so many epochs; null: never.
        backbone_lr_mult: factor of the learning rate of stem and stages.
        layer_decay: factor of the learning rate from each group of blocks to the one before it.

    Raises:
        ValueError: a value is out of range, or two do not go together.
    """

    early_stopping: EarlyStopping | None = None
    tuned_batch_size: Count | None = None
    loggers: list[LoggerName] = []
    class_weights: Annotated[Any, AfterValidator(_check_weights)] = None
    freeze_stages: CountOrZero | None = None
    freeze_epochs: Count | None = None
    backbone_lr_mult: Positive | None = None
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check_fine_tuning(self) -> SharedKeys:
        if self.freeze_epochs is not None and self.freeze_stages is None:
            raise ValueError("freeze_epochs: needs freeze_stages: how many stages to freeze, 0 for the stem alone")
        return self


class AmpSettings(Section):
    """``AMP``: automatic mixed precision. The section alone turns it on, as in PaddleClas; ``use_amp`` turns it off.

    Attributes:
        level: ``O1`` casts per operator, ``O2`` keeps the weights in low precision beside float32 copies.
        scale_loss: first value of the loss scale.
        use_fp16_test: evaluate in mixed precision too.
    """

    use_amp: bool = True
    use_fp16_test: bool = False
    scale_loss: Annotated[Number, Field(ge=1)] = 65536.0
    use_dynamic_loss_scaling: bool = True
    use_promote: bool = False
    level: Literal["O1", "O2"] = "O1"
