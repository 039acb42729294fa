"""Parameters and multiply-adds of a network by stage, counted by the profiler or read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppcls_ext.deploy.profile import Profile


@dataclass(frozen=True)
class Counts:
    """What a network costs.

    Attributes:
        image_shape: channels, height and width that were counted at.
        stages: stage -> parameters and multiply-adds of one image, in the order of the data.
    """

    image_shape: tuple[int, int, int]
    stages: dict[str, tuple[int, int]]

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(parameters for parameters, _ in self.stages.values())

    @property
    def multiply_adds(self) -> int:
        """Of one image."""
        return sum(flops for _, flops in self.stages.values())

    def to_document(self) -> dict[str, Any]:
        """Returns what :func:`from_document` reads."""
        return {"image_shape": list(self.image_shape), "stages": {key: list(pair) for key, pair in self.stages.items()}}


def from_document(document: Mapping[str, Any]) -> Counts:
    """Returns counts that :meth:`Counts.to_document` wrote."""
    channels, height, width = document["image_shape"]
    stages = {str(stage): (int(pair[0]), int(pair[1])) for stage, pair in document["stages"].items()}
    return Counts((channels, height, width), stages)


def from_profile(profile: Profile) -> Counts:
    """Returns the counts of a profile."""
    sums = {stage: (each.parameters, each.flops) for stage, each in profile.by_stage().items()}
    return Counts(profile.image_shape, {stage: pair for stage, pair in sums.items() if any(pair)})


def count_classifier(model: str, arguments: Mapping[str, Any], image_shape: tuple[int, int, int]) -> Counts:
    """Builds a classifier with random weights and counts it; loads Paddle.

    Raises:
        UserError: the network does not take such images.
        ValueError: there is no such model, or it does not take these arguments.
    """
    from ppcls_ext.arch.registry import build_model
    from ppcls_ext.deploy.profile import Subject, count_network

    network = build_model(model, **arguments)
    return from_profile(count_network(Subject(model, network, network, image_shape)))
