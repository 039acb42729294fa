"""What is known of a model, from which all sections of its card are made."""

from __future__ import annotations

from dataclasses import dataclass

from ppcls_ext.deploy.cards.counts import Counts
from ppcls_ext.deploy.cards.latency import Latency
from ppcls_ext.deploy.cards.papers import Paper, paper_of
from ppcls_ext.deploy.cards.sources import DETECTION, Source
from ppcls_ext.deploy.published import PUBLISHED, Published
from ppcls_ext.runtime import Description, DetectionDescription


@dataclass(frozen=True)
class Facts:
    """All that a card is made of. What is ``None`` or empty is told to be unknown, or left out.

    Attributes:
        source: the model, and the run that trained it.
        counts: parameters and multiply-adds.
        export: what was exported.
        latency: what a benchmark measured.
        checksum: SHA-256 of the weights.
    """

    source: Source
    counts: Counts | None = None
    export: Description | DetectionDescription | None = None
    latency: Latency | None = None
    checksum: str | None = None

    @property
    def paper(self) -> Paper | None:
        """Where the architecture was published."""
        return paper_of(self.source.architecture)

    @property
    def published(self) -> Published | None:
        """Accuracy on ImageNet-1k that others published of the architecture."""
        return PUBLISHED.get(self.source.architecture)

    @property
    def detects(self) -> bool:
        """Whether it is a detector."""
        return self.source.task == DETECTION

    @property
    def trained(self) -> bool:
        """Whether there are trained weights, in a checkpoint or an export."""
        return self.source.weights is not None or self.export is not None
