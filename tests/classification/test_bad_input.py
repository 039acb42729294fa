"""Images that cannot be read: named, counted, and too many of them stop the run."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from classification.data.datasets import ImageDataset
from classification.evaluation import BadImages
from ppcls_ext.utils.errors import UserError


class Named(ImageDataset):
    """Images of which only the names matter."""

    def __init__(self, length: int) -> None:
        self.labels = np.zeros(length, dtype=np.int64)

    def load(self, index: int) -> tuple[np.ndarray, int]:
        """Returns a black pixel and its label."""
        return np.zeros((1, 1, 3), np.uint8), 0

    def name_of(self, index: int) -> str:
        """Returns the name of the image."""
        return f"photos/{index}.jpg"


def note(bad: BadImages, *indices: int) -> None:
    bad.note(np.array(indices, dtype=np.int64))


def test_each_bad_image_is_named_once(caplog):
    bad = BadImages(Named(1000), limit=0.01)
    with caplog.at_level(logging.WARNING):
        note(bad, -1, 5, -1)
        note(bad, -1, -1)
        note(bad, 5, 8)
    assert bad.names == ["photos/5.jpg", "photos/8.jpg"]
    assert [record.getMessage() for record in caplog.records] == [
        "skipped photos/5.jpg: it cannot be read (1 so far)",
        "skipped photos/8.jpg: it cannot be read (2 so far)",
    ]


def test_exactly_the_permitted_share_goes_on_and_one_more_stops():
    bad = BadImages(Named(1000), limit=0.01)
    note(bad, *range(10))
    with pytest.raises(UserError) as error:
        note(bad, 10)
    assert str(error.value) == (
        "11 of 1000 images cannot be read, more than Global.max_bad_images permits: "
        "photos/0.jpg, photos/1.jpg, photos/2.jpg ...; mend or remove them, or go on without them by "
        "-o Global.max_bad_images=0.02"
    )


def test_in_a_small_data_set_one_bad_image_is_too_many():
    with pytest.raises(
        UserError, match=r"^1 of 50 images .* permits: photos/3\.jpg; .* -o Global.max_bad_images=0.04$"
    ):
        note(BadImages(Named(50), limit=0.01), 3)


def test_nothing_is_permitted_where_the_limit_is_zero_and_all_where_it_is_one():
    strict = BadImages(Named(1000), limit=0.0)
    note(strict, -1, -1)
    with pytest.raises(UserError, match="^1 of 1000 images"):
        note(strict, 0)
    note(BadImages(Named(5), limit=1.0), 0, 1, 2, 3, 4)


def test_a_resumed_run_remembers_and_does_not_count_twice(caplog):
    bad = BadImages(Named(1000), limit=0.01)
    bad.names = [f"photos/{index}.jpg" for index in range(10)]
    note(bad, *range(10))
    assert caplog.records == []
    with pytest.raises(UserError, match="^11 of 1000"):
        note(bad, 10)


def test_processes_add_up_what_they_met(monkeypatch):
    """The other process met images 4 and 7; images that both met count once."""

    def sum_over_ranks(values, world_size):
        other = np.zeros_like(values)
        other[[4, 7]] = 1
        return values + other

    monkeypatch.setattr("classification.evaluation.sum_over_ranks", sum_over_ranks)
    bad = BadImages(Named(1000), limit=0.003)
    note(bad, 2, 7)
    bad.share(world_size=2)
    assert bad.names == ["photos/2.jpg", "photos/7.jpg", "photos/4.jpg"]
    note(bad, 4)
    with pytest.raises(UserError, match="^4 of 1000"):
        note(bad, 9)
