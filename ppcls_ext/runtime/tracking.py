"""Identities of objects from frame to frame: ByteTrack (Zhang et al. 2022, arXiv 2110.06864), algorithm 1.

Boxes of high score are matched with the places where known objects are expected; the objects that are left, with boxes
of low score, which often are the same objects, hidden or blurred. A Kalman filter for each of centre x, centre y, width
and height (position and constant velocity, as in SORT, Bewley et al. 2016) expects the places. Only boxes of one class
are matched, as classes are counted.

Ours and not a library's: supervision brings a second OpenCV that overwrites the headless one (and matplotlib), norfair
brings filterpy, and trackers wants NumPy 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_ext.runtime.nms import intersection_over_union
from ppcls_ext.utils.errors import UserError

# Boxes below this score are noise.
LOWEST_SCORE = 0.1
# Least overlap (intersection over union) of a match, for boxes of high and of low score.
HIGH_OVERLAP, LOW_OVERLAP = 0.2, 0.5
# Frames after which an object that was not seen is given up.
PATIENCE = 30
# Standard deviations of position and velocity from one frame to the next, as shares of the box's side.
POSITION, VELOCITY = 1 / 20, 1 / 160


@dataclass
class Track:
    """An object: ``state`` ``[4, 2]`` holds value and change a frame of centre x, centre y, width and height,
    ``covariance`` ``[4, 2, 2]`` that of each row; the identity is 0 as long as it was seen in one frame only."""

    state: np.ndarray
    covariance: np.ndarray
    label: int
    identity: int = 0
    missed: int = 0

    @staticmethod
    def begin(box: np.ndarray, label: int) -> Track:
        """Begins with a box ``[4]`` of centre and sides, at rest."""
        sides = box[[2, 3, 2, 3]]
        spread = np.stack([2 * POSITION * sides, 10 * VELOCITY * sides], axis=1) ** 2
        return Track(np.stack([box, np.zeros(4)], axis=1), spread[:, :, None] * np.eye(2), label)

    @property
    def corners(self) -> np.ndarray:
        """Where the object is expected or was seen, ``[4]``: x1, y1, x2, y2."""
        centre, sides = self.state[:2, 0], np.maximum(self.state[2:, 0], 1.0)
        return np.concatenate([centre - sides / 2, centre + sides / 2])

    def expect(self) -> None:
        """Moves to the next frame."""
        if self.missed:
            self.state[2:, 1] = 0.0  # what is not seen shall move on, but neither grow nor vanish
        step = np.array([[1.0, 1.0], [0.0, 1.0]])
        sides = np.maximum(self.state[[2, 3, 2, 3], 0], 1.0)
        noise = np.stack([POSITION * sides, VELOCITY * sides], axis=1) ** 2
        self.state = self.state @ step.T
        self.covariance = step @ self.covariance @ step.T + noise[:, :, None] * np.eye(2)
        self.missed += 1

    def see(self, box: np.ndarray) -> None:
        """Takes in the box ``[4]`` of centre and sides that was matched."""
        noise = (POSITION * box[[2, 3, 2, 3]]) ** 2
        gain = self.covariance[:, :, 0] / (self.covariance[:, 0, 0] + noise)[:, None]
        self.state = self.state + gain * (box - self.state[:, 0])[:, None]
        self.covariance = self.covariance - gain[:, :, None] * self.covariance[:, None, 0, :]
        self.missed = 0


class Tracker:
    """Gives boxes the numbers of the objects that they show; one tracker for one video.

    ``thresholds``: for each class the score from which a box is a high one, and may begin an object. Needs SciPy.
    """

    def __init__(self, thresholds: Sequence[float] | np.ndarray) -> None:
        try:
            from scipy.optimize import linear_sum_assignment
        except ModuleNotFoundError:
            raise UserError("tracking needs the package scipy: pip install 'scipy>=1.11,<2'") from None
        self._assign = linear_sum_assignment
        self.thresholds = np.asarray(thresholds, np.float32)
        self.tracks: list[Track] = []
        self.identities = 0
        self._begun = False

    def is_high(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Tells for each box whether its score ``[n]`` may begin an object of its class ``[n]``."""
        return scores >= self.thresholds[labels]

    def update(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Takes in boxes ``[n, 4]`` (x1, y1, x2, y2), scores ``[n]`` and classes ``[n]`` of the next frame.

        An object gets its number in the second frame in which it is seen (those of the first frame at once), so that
        what flickers up once is not counted.

        Returns:
            ``int64`` ``[n]``: the number of the object that each box shows, from 1; 0 for none.
        """
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        sides = np.maximum(corners[:, 2:] - corners[:, :2], 1.0)
        centred = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, sides], axis=1)
        is_high = self.is_high(scores, labels)
        owners: dict[int, Track] = {}
        for track in self.tracks:
            track.expect()
        known = [track for track in self.tracks if track.identity]
        fresh = [track for track in self.tracks if not track.identity]

        def match(tracks: list[Track], free: Sequence[int], least: float) -> list[int]:
            """Matches boxes with tracks; returns those that are left."""
            if not tracks or not len(free):
                return list(free)
            chosen = np.asarray(free)
            overlap = np.stack([intersection_over_union(track.corners, corners[chosen]) for track in tracks])
            overlap *= np.array([track.label for track in tracks])[:, None] == labels[chosen]
            for row, column in zip(*self._assign(overlap, maximize=True), strict=True):
                if overlap[row, column] >= least:
                    owners[int(chosen[column])] = tracks[row]
                    tracks[row].see(centred[chosen[column]])
            return [index for index in free if index not in owners]

        free = match(known, np.flatnonzero(is_high).tolist(), HIGH_OVERLAP)
        low = np.flatnonzero(~is_high & (scores >= LOWEST_SCORE)).tolist()
        # A box of low score does not bring back what was lost frames ago.
        match([track for track in known if track.missed == 1], low, LOW_OVERLAP)
        free = match(fresh, free, HIGH_OVERLAP)
        for index in free:
            owners[index] = Track.begin(centred[index], int(labels[index]))
            self.tracks.append(owners[index])
        for index in sorted(owners):
            track = owners[index]
            if not track.identity and (index not in free or not self._begun):
                self.identities += 1
                track.identity = self.identities
        self._begun = True
        self.tracks = [track for track in self.tracks if track.missed <= (PATIENCE if track.identity else 0)]
        found = [owners[index].identity if index in owners else 0 for index in range(len(corners))]
        return np.array(found, np.int64)

