"""What the data checks of both tasks share: pairs of alike hashes, pictures of an overview."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ppcls_ext.check.duplicates import LARGEST_DISTANCE, count_bits, difference_hash, near_pairs
from ppcls_ext.check.findings import Picture
from ppcls_ext.check.images import Scan, reduced_grey
from ppcls_ext.check.overview import card_of


def test_exactly_the_pairs_within_the_distance_are_found() -> None:
    generator = np.random.default_rng(3)
    hashes = generator.integers(0, 2**63, 300, dtype=np.uint64) * np.uint64(2)
    # Relatives of the first hundred at every distance from 0 to 6, the changed bits anywhere.
    for number in range(100):
        flipped = np.uint64(0)
        for bit in generator.choice(64, number % 7, replace=False):
            flipped |= np.uint64(1) << np.uint64(bit)
        hashes[100 + number] = hashes[number] ^ flipped
    rows, columns = np.triu_indices(len(hashes), 1)
    near = count_bits(hashes[rows] ^ hashes[columns]) <= LARGEST_DISTANCE
    assert near.sum() > 50
    np.testing.assert_array_equal(near_pairs(hashes), np.stack([rows[near], columns[near]], axis=1))


def test_each_of_many_alike_hashes_has_a_relative_but_not_all_pairs_are_listed() -> None:
    for few in (0, 1):
        assert near_pairs(np.zeros(few, dtype=np.uint64)).shape == (0, 2)
    hashes = np.zeros(1_200, dtype=np.uint64)
    pairs = near_pairs(hashes)
    assert len(hashes) < len(pairs) < len(hashes) * (len(hashes) - 1) // 2
    assert len(np.unique(pairs)) == len(hashes)
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_faint_frames_of_one_channel_are_told_apart() -> None:
    """Raw sonar frames carry a faint echo in one channel; rounded to whole grey values most of them would be black."""
    generator = np.random.default_rng(0)
    frames = np.zeros((20, 120, 160, 3), dtype=np.uint8)
    for frame in frames:
        frame[:, :, 0] = cv2.resize(generator.integers(0, 24, (8, 9), dtype=np.uint8), (160, 120))
    again = frames.copy()
    again[:, :, :, 0] += generator.integers(0, 2, again.shape[:3], dtype=np.uint8)
    hashes = np.array([difference_hash(reduced_grey(frame)) for frame in (*frames, *again)], dtype=np.uint64)
    assert near_pairs(hashes).tolist() == [[number, number + 20] for number in range(20)]


@pytest.mark.parametrize(("size", "shown"), [((3000, 4000), (216, 288)), ((288, 200), (288, 200)), ((5, 8), (5, 8))])
def test_photographs_are_reduced_and_small_pictures_kept(size: tuple[int, int], shown: tuple[int, int]) -> None:
    class Photographs:
        value_range = None

        def name_of(self, index: int) -> str:
            return f"{index}.png"

    scan, image = Scan({"Train": Photographs()}, {}), np.zeros((*size, 3), np.uint8)
    card = card_of(scan, Picture("Train", 0), "", lambda picture: image)
    assert card.image.shape == (*shown, 3)
