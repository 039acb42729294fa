"""Images that cannot be read: named, counted, and too many of them stop the run."""

from __future__ import annotations

import numpy as np
import pytest

from classification.evaluation import BAD_IMAGES_KEY
from ppcls_ext.engine.bad_images import BadImages
from ppcls_ext.utils.errors import UserError


class Named:
    """Images of which only the names matter."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def name_of(self, index: int) -> str:
        """Returns the name of the image."""
        return f"photos/{index}.jpg"


def note(bad: BadImages, *indices: int) -> None:
    bad.note(np.array(indices, dtype=np.int64), ["is no picture but a PDF"] * sum(index >= 0 for index in indices))


def bad_images(length: int, limit: float) -> BadImages:
    return BadImages(Named(length), limit, BAD_IMAGES_KEY)


def test_exactly_the_permitted_share_goes_on_and_one_more_stops_also_after_a_resume():
    bad = bad_images(1000, 0.01)
    note(bad, *range(10))
    resumed = bad_images(1000, 0.01)
    resumed.names = list(bad.names)
    note(resumed, *range(10))
    # The cause is known in the session that met the image.
    for each, cause in ((bad, " (is no picture but a PDF)"), (resumed, "")):
        with pytest.raises(UserError) as error:
            note(each, 10)
        assert str(error.value) == (
            "11 of 1000 images cannot be read, more than Global.max_bad_images permits: "
            f"photos/0.jpg{cause}, photos/1.jpg{cause}, photos/2.jpg{cause} ...; mend or remove them, or go on "
            "without them by -o Global.max_bad_images=0.02"
        )


def test_processes_add_up_what_they_met(monkeypatch):
    """The other process met images 4 and 7; images that both met count once."""

    def sum_over_ranks(values, world_size):
        other = np.zeros_like(values)
        other[[4, 7]] = 1
        return values + other

    monkeypatch.setattr("ppcls_ext.engine.bad_images.sum_over_ranks", sum_over_ranks)
    bad = bad_images(1000, 0.003)
    note(bad, 2, 7)
    bad.share(world_size=2)
    assert bad.names == ["photos/2.jpg", "photos/7.jpg", "photos/4.jpg"]
    note(bad, 4)
    with pytest.raises(UserError, match="^4 of 1000"):
        note(bad, 9)
