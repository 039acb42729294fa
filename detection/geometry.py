"""Where boxes lie: what the four numbers of an annotation mean, and whether they fit the pictures.

:func:`corners_of` is the one place that turns numbers as they were written into corners in pixels of the upright
picture. :func:`doubt_about` looks at all boxes of a set, before any is clipped, beside stated and real sizes of the
pictures: where the usual reading does not fit and another does, or where the sizes are not the pictures', it names the
likely cause and what a person can choose (:class:`BoxReading`). Nothing is chosen without the person. Loads neither
Paddle nor ppdet.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from detection.annotations import Frame
from ppcls_ext.preprocess.content import FORMATS
from ppcls_ext.preprocess.decode import ORIENTATION
from ppcls_ext.utils.signature import PositiveNumber

# What the four numbers are, and how a message says it.
LAYOUTS = {
    "xyxy": "two corners, x y x y",
    "xywh": "a corner, width and height, x y w h",
    "cxcywh": "a centre, width and height",
    "yxyx": "two corners, y before x",
    "yxhw": "a corner, height and width, y before x",
}
# As each annotation file writes them, in pixels of the pictures.
AS_WRITTEN = "as-written"
# Corners of an outline: whatever boxes hold, these are corners, x before y.
OUTLINE = "outline"
# Training looks at so many pictures, spread over the set.
SAMPLE = 1000
# Reading a header is mostly waiting for the disk.
THREADS = 8

# A box fits if it reaches no further beyond its picture than this share of the picture's side and of its own, and a
# pixel more: people draw a little too large.
OVERHANG, OWN_OVERHANG = 0.02, 0.1
# So many boxes, and this share of all, must not fit before the usual reading is doubted: a few bad boxes are usual.
FEWEST, SHARE = 3, 0.1
# The same by the layout that fits instead. Large objects fit as corners and as sides alike, so that the misfits must
# tell; y before x shows on a part of the picture only, centres at two borders.
EVIDENCE = {"xyxy": (3, 0.2), "xywh": (3, 0.2), "cxcywh": (2, 0.02), "yxyx": (2, 0.1), "yxhw": (2, 0.1)}
# Of fewer boxes than these, three must not fit in any case.
HANDFUL = 10
# Centres are believed if they make what is seen twenty times as likely as one bad box in ten does.
BAD_BOXES, LIKELIHOOD = 0.1, 20
# Another reading must leave no more than this share of all boxes, and of the misfits, that do not fit.
LEFT_OVER, LEFT_OF_MISFITS = 0.02, 0.1
# A half: of the boxes that are fractions, of turned pictures whose stated sizes say so, and of those that fit nothing,
# which must be more than a handful as well.
MOST, FEWEST_LOST = 0.5, 5
# So many boxes are not in one quarter of their pictures by chance.
MANY_BOXES = 20
# So many boxes, and this share of all, are fractions of the picture in a set of pixels, and no slips.
FEWEST_FRACTIONS, FRACTIONS = 2, 0.1
# Shares of the picture are also written from 0 to 100 (percent), or from 0 to 1000.
RANGES = (100, 1000)
# So many boxes that reach to this share of the range, right and below, on pictures so many times as large, are asked
# about in passing; and these stop the work, if their centres are spread over this share of the range as well.
HINT_BOXES, HINT_REACH, HINT_SIDES = 8, 0.6, 1.5
SURE_BOXES, SURE_REACH, SURE_SIDES, SURE_SPREAD = 20, 0.85, 2.0, 0.2
# Boxes that were written in two ways: so many, and this share of all, that do not fit as the others do but fit nearly
# all in one other way. Corners are exchanged and sides are taken for others by mistake more easily than x y w h for
# corners.
PARTS = {"xyxy": (3, 0.05), "xywh": (4, 0.1), "yxyx": (5, 0.1), "yxhw": (5, 0.1)}
# Half of them must reach so far beyond, as a share of the picture's side: objects at the border are drawn whole.
FAR = 0.1
# Pixels by which rounding changes a side.
ROUNDING = 1
# One picture of another size is a slip; from so many on, and from this share of all, it is how the set was made.
FEWEST_SIZES, SIZES = 2, 0.1
# Difference of two shapes (width over height) that rounding explains.
SHAPE = 0.03
# EXIF's number for how the camera was held: from 5 on, the picture is turned by a quarter.
QUARTER = 5
# Where a PNG tells it before its pixels.
PNG_TELLS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")
# By EXIF, which pictures are mirrored from left to right and from top to bottom, after a quarter turn has exchanged
# rows and columns.
MIRRORED = ((2, 3, 6, 7), (3, 4, 7, 8))


@dataclasses.dataclass(frozen=True)
class BoxReading:
    """What a person has said about the boxes of a set; ``None``: nothing, so that doubts stop the work.

    The names are those of the options of ``tools/prepare_data.py`` and of the keys of a data set.

    Attributes:
        boxes: what the four numbers are, one of :data:`LAYOUTS`, or ``as-written``: as the annotation file's form has
            them, in pixels of the pictures, which answers all doubts.
        normalised: they are fractions of the picture, not pixels; a number: they go from 0 to this, as percent to 100.
        scale_boxes: they belong to a picture of the stated size, and are scaled to the picture as it is.
        scale_by: they belong to a picture of another size, and are multiplied by this.
        turn_boxes: they belong to the picture as it is stored, and are turned with it as its EXIF data say.
    """

    boxes: Literal["xyxy", "xywh", "cxcywh", "yxyx", "yxhw", "as-written"] | None = None
    normalised: bool | PositiveNumber | None = None
    scale_boxes: bool | None = None
    scale_by: PositiveNumber | None = None
    turn_boxes: bool | None = None

    @classmethod
    def among(cls, entries: Mapping[str, Any]) -> BoxReading:
        """Takes what is said from options or from the section of a data set, which hold other things, too."""
        return cls(**{name: entries[name] for name in READING_KEYS if name in entries})

    @property
    def scale_is_said(self) -> bool:
        """Whether it is said what stated sizes mean for the boxes."""
        return self.scale_boxes is not None or self.scale_by is not None

    def resizes(self, layout: str) -> bool:
        """Tells whether boxes of a layout (empty: outlines) become others in size than their form says."""
        is_other = bool(layout) and self.boxes not in (None, AS_WRITTEN, layout)
        return bool(is_other or self.normalised or self.scale_boxes or self.scale_by)

    @property
    def needs_pictures(self) -> bool:
        """Whether the size or the orientation of each picture matters, and not of a sample alone."""
        answers = self.normalised, self.scale_is_said, self.turn_boxes is not None, self.boxes == AS_WRITTEN
        return any(answers)

    def contradiction(self) -> tuple[str, str] | None:
        """Returns the names of two answers that exclude each other, if there are such."""
        scales = [name for name in ("normalised", "scale_boxes", "scale_by") if getattr(self, name)]
        return (scales[0], scales[1]) if len(scales) > 1 else None

    def words(self) -> str:
        """Says what the reading does; empty where nothing was chosen."""
        chosen, whole = [], float(self.normalised or 1)
        shares = "fractions" if whole == 1 else f"numbers from 0 to {whole:g}"
        if self.boxes is not None:
            chosen.append("taken as written" if self.boxes == AS_WRITTEN else f"read as {LAYOUTS[self.boxes]}")
        for answer, yes, no in (
            (self.normalised, f"read as {shares} of the picture", "read as pixels"),
            (self.scale_boxes, "scaled from the stated size to the picture's", "not scaled"),
            (self.turn_boxes, "turned with the picture as EXIF data say", "not turned"),
        ):
            if answer is not None:
                chosen.append(yes if answer else no)
        if self.scale_by is not None:
            chosen.append(f"multiplied by {self.scale_by:g}")
        return f"boxes are {', '.join(chosen)}" if chosen else ""


READING_KEYS = tuple(field.name for field in dataclasses.fields(BoxReading))
UNSAID = BoxReading()


class Pictures(NamedTuple):
    """Sizes of pictures, width before height, 0 where unknown.

    Attributes:
        shown: as decoded, upright, ``int64`` ``[N, 2]``.
        orientation: EXIF's number, 1 to 8, ``int64`` ``[N]``.
        stated: what the annotations say, ``int64`` ``[N, 2]``.
        names: of their files, for messages, or empty.
    """

    shown: np.ndarray
    orientation: np.ndarray
    stated: np.ndarray
    names: Sequence[str] = ()

    @property
    def quarter(self) -> np.ndarray:
        """Which pictures EXIF data turn by a quarter, ``bool`` ``[N]``."""
        return self.orientation >= QUARTER

    @property
    def square(self) -> np.ndarray:
        """Which pictures are as wide as high, ``bool`` ``[N]``."""
        return self.shown[:, 0] == self.shown[:, 1]

    @property
    def stored(self) -> np.ndarray:
        """The sizes before that, ``[N, 2]``."""
        return np.where(self.quarter[:, None], self.shown[:, ::-1], self.shown)


class Boxes(NamedTuple):
    """All boxes of a set as they were written.

    Attributes:
        numbers: ``float64`` ``[A, 4]``.
        layouts: what the form of the file says that they are, of :data:`LAYOUTS` or :data:`OUTLINE`, ``[A]``.
        rows: the picture of each, ``int64`` ``[A]``.
    """

    numbers: np.ndarray
    layouts: np.ndarray
    rows: np.ndarray

    def on(self, pictures: np.ndarray) -> Boxes:
        """Returns those on some of the pictures, ``bool`` ``[N]``."""
        return Boxes(*(column[pictures[self.rows]] for column in self))


def read_pictures(files: Iterable[Path], stated: Iterable[tuple[int, int] | None]) -> Pictures:
    """Reads size and orientation from the headers of picture files, which takes some 0.2 ms each and decodes nothing.

    A file that cannot be read has the size that is stated; a stated size of ``None`` is 0.
    """
    files = list(files)
    with ThreadPoolExecutor(THREADS) as threads:
        seen = list(threads.map(_header, files))
    told = [size or (0, 0) for size in stated]
    shown = [size if all(size) else other for (size, _), other in zip(seen, told, strict=True)]
    return Pictures(
        np.array(shown, np.int64).reshape(-1, 2),
        np.array([orientation for _, orientation in seen], np.int64),
        np.array(told, np.int64).reshape(-1, 2),
        [file.name for file in files],
    )


def _header(file: Path) -> tuple[tuple[int, int], int]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.format in ("JPEG", "MPO"):
                # Pillow would heed XMP as well, which the decoder of JPEGs does not.
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
            elif image.format == "PNG" and not any(place in image.info for place in PNG_TELLS):
                # Pillow would decode all of it to look for EXIF data at the end.
                return image.size, 1
            else:
                exif = image.getexif()
            orientation = exif.get(ORIENTATION, 1)
            orientation = orientation if orientation in range(1, 9) else 1
            # Of a TIFF, Pillow states the upright size.
            turned = orientation >= QUARTER and image.format != "TIFF"
            return image.size[::-1] if turned else image.size, orientation
    except Exception:  # noqa: BLE001 - Pillow's readers raise nearly anything; the decoder will name what is wrong.
        return (0, 0), 1


def corners_of(boxes: Boxes, pictures: Pictures, reading: BoxReading = UNSAID) -> np.ndarray:
    """Returns left, top, right and bottom of each box in pixels of the upright picture, ``float64`` ``[A, 4]``.

    They are neither put in order nor clipped. A box stays as it is where the reading needs a size that is not known.
    """
    layouts = boxes.layouts
    if reading.boxes not in (None, AS_WRITTEN):
        layouts = np.where(layouts == OUTLINE, OUTLINE, reading.boxes)
    corners = np.empty_like(boxes.numbers)
    for layout in np.unique(layouts):
        chosen = layouts == layout
        corners[chosen] = _corners(boxes.numbers[chosen], str(layout))
    if not reading.needs_pictures:
        return corners
    shown, stated = pictures.shown[boxes.rows], pictures.stated[boxes.rows]
    base = pictures.stored[boxes.rows] if reading.turn_boxes else shown
    if reading.normalised:
        corners *= np.tile(np.where(base > 0, base, 1), 2) / float(reading.normalised)
    elif reading.scale_by is not None:
        corners *= reading.scale_by
    elif reading.scale_boxes:
        known = (stated > 0).all(axis=1, keepdims=True) & (base > 0).all(axis=1, keepdims=True)
        corners *= np.tile(np.where(known, base / np.where(known, stated, 1), 1.0), 2)
    if reading.turn_boxes:
        orientation = np.where((shown > 0).all(axis=1), pictures.orientation[boxes.rows], 1)
        corners = np.where((orientation >= QUARTER)[:, None], corners[:, [1, 0, 3, 2]], corners)
        for axis, mirrored in enumerate(MIRRORED):
            chosen = np.isin(orientation, mirrored)
            corners[chosen, axis::2] = shown[chosen, axis, None] - corners[chosen, axis::2][:, ::-1]
    return corners


def _corners(numbers: np.ndarray, layout: str) -> np.ndarray:
    first, second = numbers[:, :2], numbers[:, 2:]
    if layout.startswith("y"):
        first, second = first[:, ::-1], second[:, ::-1]
    if layout == "cxcywh":
        first, second = first - second / 2, first + second / 2
    elif layout in ("xywh", "yxhw"):
        second = first + second
    return np.concatenate([first, second], axis=1)


def misfits(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Tells which boxes reach far beyond their picture or end before they begin, ``bool`` ``[A]``."""
    low, high = corners[:, :2], corners[:, 2:]
    slack = ROUNDING + np.minimum(OVERHANG * sizes, OWN_OVERHANG * np.abs(high - low))
    return ((low < -slack) | (high > sizes + slack) | (high < low)).any(axis=1)


def as_options(**choices: str | float) -> str:
    """Spells choices as options of a command: ``--boxes xyxy --no-scale-boxes``."""
    words = []
    for name, value in choices.items():
        option = name.replace("_", "-")
        words.append(f"--{'no-' if value is False else ''}{option}" + ("" if isinstance(value, bool) else f" {value}"))
    return " ".join(words)


def as_keys(section: str) -> Callable[..., str]:
    """Returns what spells choices as keys of a configuration's section: ``TrainDataset.boxes: xyxy``."""

    def spell(**choices: str | float) -> str:
        values = {name: str(value).lower() for name, value in choices.items()}
        return " and ".join(f"{section}.{name}: {value}" for name, value in values.items())

    return spell


class _Trial:
    """Tries readings on all boxes of a set; ``spell`` says choices as options or as keys."""

    def __init__(self, boxes: Boxes, pictures: Pictures, spell: Callable[..., str]) -> None:
        self.boxes, self.pictures, self.spell, self.count = boxes, pictures, spell, len(boxes.rows)
        self.seen = np.isin(np.arange(len(pictures.shown)), boxes.rows)
        self.known: dict[BoxReading, int] = {}

    def lost(self, reading: BoxReading) -> int:
        """Returns how many boxes do not fit their pictures."""
        if reading not in self.known:
            corners = corners_of(self.boxes, self.pictures, reading)
            self.known[reading] = int(misfits(corners, self.pictures.shown[self.boxes.rows]).sum())
        return self.known[reading]

    def on_pictures(self, chosen: np.ndarray) -> str:
        """Says how many pictures hold the chosen boxes, ``bool`` ``[A]``, and names the first."""
        rows = np.unique(self.boxes.rows[chosen])
        example = f" such as {self.pictures.names[rows[0]]}" if len(self.pictures.names) else ""
        return f"on {len(rows)} picture{'s' if len(rows) > 1 else ''}{example}"

    def fit(self, reading: BoxReading) -> str:
        """Says how many boxes fit."""
        return f"{self.count - self.lost(reading)} of {self.count} fit"

    def is_doubtful(self, reading: BoxReading, fewest: int = FEWEST, share: float = SHARE) -> bool:
        """Tells whether so many boxes do not fit that they are no slips."""
        fewest = fewest if self.count >= HANDFUL else max(fewest, FEWEST)
        return self.lost(reading) >= max(fewest, share * self.count)

    def may_be_centres(self, reading: BoxReading) -> bool:
        """Tells whether boxes that all fit as centres are centres, or corners of which a few are bad.

        Of objects that lie anywhere, ``near`` are nearer to the left or upper border than half their side. If numbers
        are centres, none are, and as many reach beyond the other two borders; if they are corners, that none are is
        chance, and those that reach beyond are bad boxes. Both counts are taken for Poisson's.
        """
        corners = corners_of(self.boxes, self.pictures, reading)
        sizes, sides = self.pictures.shown[self.boxes.rows], np.abs(corners[:, 2:] - corners[:, :2])
        shares = (sides / 2 / np.maximum(sizes - sides, ROUNDING)).clip(max=1)
        near, bad = (1 - (1 - shares).prod(axis=1)).sum(), BAD_BOXES * self.count
        return near > 0 and self.lost(reading) * math.log(near / bad) + bad >= math.log(LIKELIHOOD)


def doubt_about(
    boxes: Boxes, pictures: Pictures, reading: BoxReading = UNSAID, spell: Callable[..., str] = as_options
) -> str | None:
    """Tells whether the boxes of a set, read as ``reading`` says, do not fit its pictures (of known size).

    Only what the reading leaves open is asked about, and ``spell`` says the choices, as options or as keys. A few bad
    boxes, a handful of boxes, small or large objects and single pictures of another size raise no doubt; the limits are
    the constants at the top of this module.

    Returns:
        One line, without the name of the set: how many of how many do not fit, the likely cause and what reads them;
        ``None`` where nothing is doubtful.
    """
    boxes = boxes.on((pictures.shown > 0).all(axis=1))
    if reading.boxes == AS_WRITTEN or not len(boxes.rows):
        return None
    trial = _Trial(boxes, pictures, spell)
    sizes = _sizes(trial, reading)
    unit, reading = _ask_unit(trial, reading)
    if not unit and not _are_many(sizes.other, sizes.told):
        unit, reading = _ask_range(trial, reading)
    layout, reading = _ask_layout(trial, reading, sizes)
    turn, reading = _ask_turn(trial, reading, sizes)
    questions = [unit, layout, turn, _ask_scale(trial, reading, sizes)]
    if not any(questions):
        questions = [
            _ask_exchange(trial, reading, sizes)
            or _ask_parts(trial, reading)
            or _ask_range(trial, reading, are_pixels_lost=trial.is_doubtful(reading))[0]
            or _ask_resolution(trial, reading)
        ]
    return "; ".join(filter(None, questions)) or None


# Each question is a text, empty where there is nothing to ask, and the reading with its likely answer.


def _ask_unit(trial: _Trial, reading: BoxReading) -> tuple[str, BoxReading]:
    numbers = trial.boxes.numbers
    # A box of zeros is a placeholder.
    small = (np.abs(numbers) <= 1 + OVERHANG).all(axis=1) & numbers.any(axis=1)
    if reading.normalised is not None:
        return "", reading
    if small.mean() > MOST:
        text = (
            f"{small.sum()} of {trial.count} boxes hold no number above 1, as fractions of the picture do: "
            f"{trial.spell(normalised=True)} reads them so, {trial.spell(normalised=False)} as pixels"
        )
        return text, dataclasses.replace(reading, normalised=True)
    # A first pixel, 0 0 1 1, is a placeholder as well.
    small &= (numbers % 1 > 0).any(axis=1)
    if small.sum() < max(FEWEST_FRACTIONS, FRACTIONS * trial.count):
        return "", reading
    text = (
        f"{small.sum()} of {trial.count} boxes, {trial.on_pictures(small)}, hold no number above 1, as fractions of "
        "the picture do, and the others are pixels: split the set and read that part with "
        f"{trial.spell(normalised=True)}; {trial.spell(normalised=False)} takes all as pixels"
    )
    return text, reading


def _ask_range(trial: _Trial, reading: BoxReading, are_pixels_lost: bool = False) -> tuple[str, BoxReading]:
    """Asks whether numbers go from 0 to 100 or 1000; ``are_pixels_lost``: they do not fit the pictures as pixels."""
    found = _range_of(trial.boxes, trial.pictures, reading)
    if found is None or not found.is_full or not (are_pixels_lost or found.least >= SURE_SIDES * found.whole):
        return "", reading
    text = (
        f"{trial.count} boxes reach to {found.reach[0]:.4g} and {found.reach[1]:.4g}, while pictures have "
        f"{found.example}: they look like numbers from 0 to {found.whole} of the picture: "
        f"{trial.spell(normalised=found.whole)} reads them so, {trial.spell(normalised=False)} as pixels"
    )
    return text, dataclasses.replace(reading, normalised=found.whole)


class _Range(NamedTuple):
    """Numbers that may be shares of the picture from 0 to ``whole``.

    Attributes:
        whole: the end of the range.
        reach: how far boxes reach to the right and down.
        is_full: so many boxes fill the range that nothing else is likely, if the pictures are larger.
        least: the shorter side of the pictures, of which a tenth may be smaller.
        longer: their longer side likewise.
        example: the size of a picture, in words.
    """

    whole: int
    reach: tuple[float, float]
    is_full: bool
    least: float
    longer: float
    example: str


def _range_of(boxes: Boxes, pictures: Pictures, reading: BoxReading) -> _Range | None:
    boxes = Boxes(*(column[boxes.numbers.any(axis=1)] for column in boxes))
    sizes = pictures.shown[boxes.rows]
    is_asked = reading.normalised is None and not reading.scale_is_said and reading.boxes != AS_WRITTEN
    if not is_asked or len(sizes) < HINT_BOXES or not sizes.all():
        return None
    example = "{}x{} pixels".format(*sizes[0])
    for layout in [reading.boxes] if reading.boxes else [None, "xyxy", "xywh", "cxcywh"]:
        corners = corners_of(boxes, pictures, BoxReading(boxes=layout))
        for whole in RANGES:
            fits = ~misfits(corners, np.full_like(sizes, whole))
            if fits.mean() < 1 - LEFT_OVER:
                continue
            reach = corners[fits, 2:].max(axis=0)
            centres = (corners[fits, :2] + corners[fits, 2:]) / 2
            spread = np.quantile(centres, 0.9, axis=0) - np.quantile(centres, 0.1, axis=0)
            fills = (reach >= SURE_REACH * whole) & (spread >= SURE_SPREAD * whole)
            is_full = len(sizes) >= SURE_BOXES and bool(fills.all())
            if (reach >= HINT_REACH * whole).all() and (is_full or layout == reading.boxes):
                least, longer = np.quantile(sizes.min(axis=1), 0.1), np.quantile(sizes.max(axis=1), 0.1)
                return _Range(whole, (reach[0], reach[1]), is_full, least, longer, example)
    return None


class _Sizes(NamedTuple):
    """Pictures with boxes, each ``bool`` ``[N]``.

    Attributes:
        told: the annotations state a size.
        stored: that of the stored picture (or of its shape), which EXIF data turn by a quarter.
        exchanged: width and height are exchanged, and no EXIF data explain it.
        other: it is another one.
    """

    told: np.ndarray
    stored: np.ndarray
    exchanged: np.ndarray
    other: np.ndarray


def _sizes(trial: _Trial, reading: BoxReading) -> _Sizes:
    pictures = trial.pictures
    stated, shown, stored = pictures.stated, pictures.shown, pictures.stored
    told = trial.seen & (stated > 0).all(axis=1) & (shown > 0).all(axis=1)
    base = stored if reading.turn_boxes else shown

    def alike(one: np.ndarray) -> np.ndarray:
        return (np.abs(one - stated) <= ROUNDING).all(axis=1)

    def shaped(one: np.ndarray) -> np.ndarray:
        crossed = one * stated[:, ::-1]
        return np.abs(crossed[:, 0] - crossed[:, 1]) <= SHAPE * crossed.max(axis=1)

    differs = told & ~alike(base)
    quarter = differs & pictures.quarter & (reading.turn_boxes is None)
    of_stored = quarter & (alike(stored) | (shaped(stored) & ~shaped(shown)))
    exchanged = differs & ~of_stored & alike(base[:, ::-1])
    other = differs & ~exchanged & ~alike(stored)
    return _Sizes(told, of_stored, exchanged, other)


def _ask_layout(trial: _Trial, reading: BoxReading, sizes: _Sizes) -> tuple[str, BoxReading]:
    # The picture that boxes belong to may have to be chosen, too.
    readings = [reading]
    if reading.turn_boxes is None and trial.pictures.quarter[trial.seen].any():
        readings.append(dataclasses.replace(reading, turn_boxes=True))
    if not reading.scale_is_said and sizes.other.any():
        readings += [dataclasses.replace(each, scale_boxes=True) for each in readings]
    usual = min(readings, key=trial.lost)
    layouts = [layout for layout, needed in EVIDENCE.items() if trial.is_doubtful(usual, *needed)]
    if reading.boxes is not None or not layouts:
        return "", reading
    if not trial.may_be_centres(usual) and not trial.is_doubtful(usual, FEWEST, MOST):
        layouts.remove("cxcywh")
    limit = min(LEFT_OVER * trial.count, LEFT_OF_MISFITS * trial.lost(usual))
    others = [dataclasses.replace(each, boxes=layout) for layout in layouts for each in readings]
    fits = sorted((each for each in others if trial.lost(each) <= limit), key=trial.lost)
    if not fits:
        return "", reading
    best = fits[0].boxes
    equal = sorted({each.boxes for each in fits if trial.lost(each) == trial.lost(fits[0])} - {best})
    also = f" ({' or '.join(trial.spell(boxes=layout) for layout in equal)} would fit as well)" if equal else ""
    text = (
        f"{trial.lost(usual)} of {trial.count} boxes reach beyond their pictures or end before they begin, and "
        f"{trial.fit(fits[0])} as {LAYOUTS[best]}: {trial.spell(boxes=best)} reads them so{also}, "
        f"{trial.spell(boxes=AS_WRITTEN)} as they are"
    )
    return text, dataclasses.replace(reading, boxes=best)


def _ask_turn(trial: _Trial, reading: BoxReading, sizes: _Sizes) -> tuple[str, BoxReading]:
    quarter = trial.seen & trial.pictures.quarter
    if reading.turn_boxes is not None or not quarter.any():
        return "", reading
    stored, upright = (dataclasses.replace(reading, turn_boxes=answer) for answer in (True, False))
    told = sizes.told & quarter & ~trial.pictures.square
    turned = _Trial(trial.boxes.on(quarter), trial.pictures, trial.spell)
    if sizes.stored.any() and sizes.stored.sum() >= MOST * told.sum():
        cause = f"the sizes stated for {sizes.stored.sum()} of them are those of the stored pictures"
    elif turned.is_doubtful(upright) and turned.lost(stored) <= LEFT_OF_MISFITS * turned.lost(upright):
        cause = "boxes fit the stored pictures only"
    else:
        return "", reading
    text = (
        f"EXIF data turn {quarter.sum()} of {trial.seen.sum()} pictures by a quarter, and {cause}: "
        f"{trial.spell(turn_boxes=True)} if the boxes belong to the stored pictures ({turned.fit(stored)}), "
        f"{trial.spell(turn_boxes=False)} if to the upright ones ({turned.fit(upright)})"
    )
    return text, stored


def _ask_scale(trial: _Trial, reading: BoxReading, sizes: _Sizes) -> str:
    if reading.scale_is_said or reading.normalised or not _are_many(sizes.other, sizes.told):
        return ""
    first = int(sizes.other.argmax())
    stated, shown = trial.pictures.stated[sizes.other], trial.pictures.shown[sizes.other]
    base = trial.pictures.stored[sizes.other] if reading.turn_boxes else shown
    factors = stated / base
    low, high = factors.min(), factors.max()
    by = f"{np.median(factors):.3g} times as large" if high - low <= SHAPE * high else "by several factors"
    scaled, kept = (dataclasses.replace(reading, scale_boxes=answer) for answer in (True, False))
    answers = [
        f"{trial.spell(scale_boxes=True)} if the boxes belong to the stated sizes ({trial.fit(scaled)})",
        f"{trial.spell(scale_boxes=False)} if to the pictures as they are ({trial.fit(kept)})",
    ]
    # Where boxes fit both, they rather belong to the smaller one, which they fill.
    fits_both = not trial.is_doubtful(scaled) and not trial.is_doubtful(kept)
    if np.median(factors) > 1 if fits_both else trial.is_doubtful(scaled):
        answers.reverse()
    return (
        f"the sizes stated for {sizes.other.sum()} of {sizes.told.sum()} pictures are not theirs ({by}; one is stated "
        "as {}x{} and has {}x{}), as of scaled copies: ".format(
            *trial.pictures.stated[first], *trial.pictures.shown[first]
        )
        + ", ".join(answers)
    )


def _ask_exchange(trial: _Trial, reading: BoxReading, sizes: _Sizes) -> str:
    said = reading.boxes is not None or reading.turn_boxes is not None or reading.scale_is_said
    if said or not _are_many(sizes.exchanged, sizes.told):
        return ""
    return (
        f"width and height stated for {sizes.exchanged.sum()} of {sizes.told.sum()} pictures are exchanged, and no "
        f"EXIF data say why: {trial.spell(boxes=AS_WRITTEN)} if only the sizes are wrong ({trial.fit(reading)}); if "
        "the pictures were turned after they were annotated, turn them back"
    )


def _ask_parts(trial: _Trial, reading: BoxReading) -> str:
    """Asks whether a part of the set was written in another way than the rest."""
    sizes = trial.pictures.shown[trial.boxes.rows]
    corners = corners_of(trial.boxes, trial.pictures, reading)
    lost = misfits(corners, sizes)
    over = np.maximum(corners[:, 2:] - sizes, -corners[:, :2])
    far = (lost & ((over > FAR * sizes) | (corners[:, 2:] < corners[:, :2])).any(axis=1)).sum()
    # A part is made of whole pictures.
    beside = np.isin(trial.boxes.rows, trial.boxes.rows[lost])
    for layout, (fewest, share) in PARTS.items():
        fits = ~misfits(corners_of(trial.boxes, trial.pictures, dataclasses.replace(reading, boxes=layout)), sizes)
        if lost.sum() < max(fewest, share * trial.count) or far < max(FEWEST, MOST * lost.sum()):
            continue
        if min(fits[lost].mean(), fits[beside].mean()) >= 1 - LEFT_OF_MISFITS:
            return (
                f"{lost.sum()} of {trial.count} boxes, {trial.on_pictures(lost)}, reach beyond their pictures or end "
                f"before they begin, and fit as {LAYOUTS[layout]}, as the others do not: a part of the set is written "
                f"in another way; split the set and read that part with {trial.spell(boxes=layout)}; "
                f"{trial.spell(boxes=AS_WRITTEN)} takes all as they are"
            )
    return ""


def _ask_resolution(trial: _Trial, reading: BoxReading) -> str:
    said = reading.boxes is not None or reading.scale_is_said
    if said or trial.lost(reading) < max(FEWEST_LOST, MOST * trial.count):
        return ""
    reaches = corners_of(trial.boxes, trial.pictures, reading)[:, 2:] / trial.pictures.shown[trial.boxes.rows]
    reach = float(f"{max(np.quantile(reaches, 0.98), 1):.2g}")
    return (
        f"{trial.lost(reading)} of {trial.count} boxes reach beyond their pictures or end before they begin, and no "
        f"other reading fits: pixels of another resolution (they reach to {reach:g} times the picture)? Then multiply "
        f"them, {trial.spell(scale_by=float(f'{1 / reach:.2g}'))} for pictures {reach:g} times as large; "
        f"{trial.spell(boxes=AS_WRITTEN)} takes them as they are"
    )


def _are_many(chosen: np.ndarray, among: np.ndarray) -> bool:
    return bool(chosen.sum() >= max(FEWEST_SIZES, SIZES * among.sum()))


# Frames, which every reader makes of its files.


def place_boxes(
    frames: Sequence[Frame], reading: BoxReading = UNSAID, spell: Callable[..., str] = as_options, sample: int = 0
) -> tuple[str | None, str]:
    """Gives the boxes of a set their corners in pixels of the upright pictures, and the frames that are looked at the
    size of their picture, in place.

    A size that is stated for a picture, and that ``reading`` explains, becomes that of the picture.

    Args:
        frames: all of the set, with their images, stated sizes and boxes as written.
        reading: what a person has said.
        spell: see :func:`doubt_about`.
        sample: look at so many pictures, spread over those with boxes, unless the reading needs the size of each; 0
            looks at all. A header takes some 0.2 ms from memory, but a slow disk some 10 ms.

    Returns:
        What is doubtful (see :func:`doubt_about`), and what a reading that was chosen does, each one line; ``None`` and
        an empty text where there is nothing to say.
    """
    looked_at, full = frames, [frame for frame in frames if frame.raw]
    if sample and not reading.needs_pictures and len(full) > sample:
        looked_at = [full[index] for index in np.linspace(0, len(full) - 1, sample).astype(int)]
    pictures = read_pictures([frame.image for frame in looked_at], [frame.stated_size for frame in looked_at])
    for frame, size in zip(looked_at, pictures.shown.tolist(), strict=True):
        frame.width, frame.height = size
    boxes, places = _table(looked_at)
    doubt = doubt_about(boxes, pictures, reading, spell)
    if doubt and looked_at is not frames:
        doubt = f"{doubt} (seen on {sample} of {len(full)} pictures)"
    words = []
    if reading == UNSAID:
        words.append("" if doubt else _where_all_are(boxes, pictures, spell))
    else:
        fits = ~misfits(corners_of(boxes, pictures, reading), pictures.shown[boxes.rows])
        words.append(f"{reading.words()}: {fits.sum()} of {len(boxes.rows)} fit their pictures")
    if not doubt and (hint := _which_range(boxes, pictures, reading, spell)):
        # This says more than that all boxes lie in the first quarter.
        words = [hint] if reading == UNSAID else [*words, hint]
    if not doubt and reading.turn_boxes is None and reading.boxes != AS_WRITTEN:
        words.append(_which_may_be_turned(boxes, pictures, spell))
    line = "; ".join(filter(None, words))
    if reading == UNSAID:
        return doubt, line
    explains_all = reading.scale_is_said or reading.boxes == AS_WRITTEN
    for frame, size, quarter in zip(looked_at, pictures.shown.tolist(), pictures.quarter.tolist(), strict=True):
        if frame.stated_size and all(size) and (explains_all or (quarter and reading.turn_boxes is not None)):
            frame.stated_size = (size[0], size[1])
    if looked_at is not frames:
        # The reading needs no pictures.
        boxes, places = _table(frames)
        pictures = read_pictures([], [])
    for (frame, position), corners in zip(places, corners_of(boxes, pictures, reading).tolist(), strict=True):
        raw = frame.raw[position]
        # An area that is stated belongs to what the numbers were before.
        area = None if reading.resizes(raw.layout) else raw.area
        frame.raw[position] = dataclasses.replace(raw, corners=tuple(corners), area=area)
    return doubt, line


def _which_may_be_turned(boxes: Boxes, pictures: Pictures, spell: Callable[..., str]) -> str:
    """Says how many pictures with boxes EXIF data turn in a way that no stated size tells of."""
    shown = np.isin(np.arange(len(pictures.shown)), boxes.rows)
    telling = pictures.quarter & ~pictures.square & (pictures.stated > 0).all(axis=1)
    unclear = shown & (pictures.orientation > 1) & ~telling
    if not unclear.any():
        return ""
    return (
        f"EXIF data turn or mirror {unclear.sum()} of {shown.sum()} pictures, and no stated size tells whether boxes "
        "were drawn before or after: they are taken as those of the upright pictures; "
        f"{spell(turn_boxes=True)} if they belong to the stored ones"
    )


def _which_range(boxes: Boxes, pictures: Pictures, reading: BoxReading, spell: Callable[..., str]) -> str:
    """Says that numbers may go from 0 to 100 or 1000, where it is likely, but not nearly certain."""
    found = _range_of(boxes, pictures, reading)
    if found is None:
        return ""
    # A full range is believed on pictures of which one side alone is much longer.
    shorter = found.whole if found.is_full else HINT_SIDES * found.whole
    if found.least < shorter or found.longer < HINT_SIDES * found.whole:
        return ""
    return (
        f"{len(boxes.rows)} boxes reach to {found.reach[0]:.4g} and {found.reach[1]:.4g} only, while pictures have "
        f"{found.example}: are they numbers from 0 to {found.whole} of the picture ({spell(normalised=found.whole)})? "
        f"They are taken as pixels, which {spell(normalised=False)} confirms"
    )


def _where_all_are(boxes: Boxes, pictures: Pictures, spell: Callable[..., str]) -> str:
    """Says that all boxes lie in the first quarter, where objects rarely are, but sides taken for corners always."""
    sizes = pictures.shown[boxes.rows]
    centres = corners_of(boxes, pictures).reshape(-1, 2, 2).mean(axis=1) / np.maximum(sizes, 1)
    known = (sizes > 0).all(axis=1)
    in_quarter = (centres[known] <= 0.5).all(axis=1)
    # Full pictures have their centre in the middle.
    aside = (centres[known] < 0.5 - OVERHANG).any(axis=1)
    if len(in_quarter) < MANY_BOXES or not in_quarter.all() or aside.mean() < MOST:
        return ""
    sides = f"x y w h in the place of corners ({spell(boxes='xywh')}) or " if (boxes.layouts == "xyxy").any() else ""
    return (
        f"the centres of all {len(in_quarter)} boxes lie in the upper left quarter of their pictures: are they {sides}"
        f"pixels of smaller pictures ({spell(scale_by=2)} for half the size)?"
    )


def _table(frames: Sequence[Frame]) -> tuple[Boxes, list[tuple[Frame, int]]]:
    """Returns the boxes of frames whose numbers could be read, and frame and position of each."""
    numbers, layouts, rows, places = [], [], [], []
    for row, frame in enumerate(frames):
        for position, raw in enumerate(frame.raw):
            # An outline has corners only.
            written = raw.numbers or raw.corners
            if written is not None:
                numbers.append(written)
                layouts.append(raw.layout or OUTLINE)
                rows.append(row)
                places.append((frame, position))
    return Boxes(np.array(numbers, np.float64).reshape(-1, 4), np.array(layouts, str), np.array(rows, np.int64)), places
