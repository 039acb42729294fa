"""One range of values for all pictures of more than 8 bits a sample: stated once or found on the training set.

The decode operator of a configuration states it, ``DecodeImage: {bits: 12}`` or, in a detector's readers, ``Decode:
{value_range: [0, 4096]}``. What one list of operators states holds for the lists of the same configuration that state
nothing; ``bits: auto`` is found when training starts, and is a number from then on: in the configuration of the run, in
its checkpoints and in ``inference.yml``.
"""

from __future__ import annotations

import copy
import io
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from ppcls_ext.preprocess.content import FORMATS
from ppcls_ext.preprocess.decode import JPEG_START, ImageError, decode_image
from ppcls_ext.preprocess.samples import AUTO, SIXTEEN_BITS, AnyRange, Range, deep_form, stated_range
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.signature import check_arguments, parameters_of

logger = logging.getLogger(__name__)

# Where configurations of classifiers and of detectors list operators, and what is called the decoder there.
PLACES = {
    "DataLoader.Train.dataset.transform_ops": "DecodeImage",
    "DataLoader.Eval.dataset.transform_ops": "DecodeImage",
    "Infer.transforms": "DecodeImage",
    "TrainReader.sample_transforms": "Decode",
    "EvalReader.sample_transforms": "Decode",
    "TestReader.sample_transforms": "Decode",
}
KEYS = ("bits", "value_range")
# What cameras and sonars deliver.
DEPTHS = (8, 10, 12, 14, 16)
# Images of the training set that are looked at to find the range, and to warn of one that is mostly empty.
FOUND_ON, WARNED_ON = 1000, 100
# Of the range that is in use; a set whose largest value lies below has lost two bits or more.
EMPTY_SHARE = 0.25

Statement = dict[str, Any]


# What configurations state


def _lists(data: Any) -> Iterator[tuple[str, str, list[Any]]]:
    """Gives dotted key, name of the decoder and operators of each list in the data of a configuration."""
    for place, decoder in PLACES.items():
        value = data
        for key in place.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, list):
            yield place, decoder, value


def _decoder_in(operators: list[Any], decoder: str) -> tuple[int, dict[str, Any]] | None:
    """Returns place and arguments of the decoder in a list of operators."""
    for index, entry in enumerate(operators):
        entry = {decoder: None} if entry == decoder else entry
        if isinstance(entry, dict) and isinstance(entry.get(decoder, ""), dict | None):
            return index, entry[decoder] or {}
    return None


def statements_in(data: Any) -> dict[str, Statement]:
    """Returns what the decode operators of a configuration state, by the dotted key of the operator's argument."""
    found = {}
    for key, decoder, operators in _lists(data):
        index, arguments = _decoder_in(operators, decoder) or (0, {})
        for name in KEYS:
            if arguments.get(name) is not None:
                found[f"{key}[{index}].{decoder}.{name}"] = {name: arguments[name]}
    return found


def statement_in(data: Any) -> Statement:
    """Returns the one statement of a configuration that was made to agree, such as ``{"bits": 12}``; or ``{}``."""
    return next(iter(statements_in(data).values()), {})


def with_stated_range(operators: list[Any], decoder: str, statement: Statement) -> list[Any]:
    """Returns a list of operators whose decoder, of this name, states this; it is put in front where there is none."""
    found = _decoder_in(operators, decoder)
    if found is None:
        return [{decoder: dict(statement)}, *operators]
    index, arguments = found
    kept = {name: value for name, value in arguments.items() if name not in KEYS}
    rest = operators[index] if isinstance(operators[index], dict) else {}
    return [*operators[:index], {**rest, decoder: {**kept, **statement}}, *operators[index + 1 :]]


def with_statement(data: Any, statement: Statement) -> Any:
    """Returns a copy of a configuration's data that states this everywhere."""
    data = copy.deepcopy(data)
    _state_in(data, statement)
    return data


def _state_in(data: Any, statement: Statement) -> None:
    for _, decoder, operators in _lists(data):
        operators[:] = with_stated_range(operators, decoder, statement)


def unify_ranges(data: Any) -> list[tuple[str, str]]:
    """Lets what one decode operator of a configuration states hold for all of its lists, in place.

    Returns:
        Dotted keys that state something impossible, or something else than the first one, and what is wrong with them.
    """
    statements = statements_in(data)
    if not statements:
        return []
    (first, statement), *others = statements.items()
    try:
        range_of(statement)
    except ValueError as error:
        # The operators of classifiers are built when they are checked, and tell it themselves.
        return [(first, str(error).partition(": ")[2])] if ".Decode." in first else []
    problems = [
        (key, f"states {as_yaml(other)}, but {first} states {as_yaml(statement)}: training and deployment must agree")
        for key, other in others
        if other != statement
    ]
    if not problems:
        _state_in(data, statement)
    return problems


def range_of(statement: Statement) -> Range | None:
    """Returns the range of a statement that is a number; None for one that is none or still to be found.

    Raises:
        ValueError: the statement is impossible; the message begins with the argument's name.
    """
    values, problems = check_arguments(parameters_of(stated_range), dict.fromkeys(KEYS) | statement)
    for name, problem in problems:
        raise ValueError(f"{name}: {problem}")
    found = stated_range(**values)
    return None if found == AUTO else found


def is_auto(statement: Statement) -> bool:
    """Whether the range is still to be found."""
    return statement.get("bits") == AUTO


def as_yaml(statement: Statement) -> str:
    """Returns a statement as a configuration holds it: ``bits: 12``."""
    return ", ".join(f"{name}: {value}" for name, value in statement.items())


def statement_of_weights(weights: Path) -> Statement:
    """Returns the numbers in the configuration beside a weight file of a checkpoint; ``{}`` where there are none."""
    file = weights.parent / "config.yaml"
    try:
        statement = statement_in(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return {} if is_auto(statement) else statement


def as_trained(data: Any, weights: Path, where: str) -> Statement:
    """Returns what holds for trained weights: what the configuration states, else what their run stated.

    Raises:
        UserError: the configuration (``where``, for messages) says ``bits: auto``, and nobody knows the number.
    """
    statement, trained = statement_in(data), statement_of_weights(weights)
    if is_auto(statement) and not trained:
        raise UserError(
            f"{where}: bits: auto is found on the training set when a run starts, and {weights} comes from no such "
            "run; state the number, such as bits: 12"
        )
    if not trained or statement == trained:
        return statement
    if not statement or is_auto(statement):
        logger.info("%s, as %s was trained", as_yaml(trained), weights)
        return trained
    logger.warning("%s states %s, but %s was trained with %s", where, as_yaml(statement), weights, as_yaml(trained))
    return statement


# What the pictures hold


class Survey(NamedTuple):
    """What was found on ``seen`` pictures, ``deep`` of which have more than 8 bits a sample: values of their samples,
    the ``largest`` that their files can hold, and whether all are ``whole`` numbers."""

    seen: int = 0
    deep: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    largest: float = 0
    whole: bool = True

    @property
    def needs_range(self) -> bool:
        """Whether the samples are no whole numbers from 0 to 65535, so that they have no range of their own."""
        return bool(self.deep) and (not self.whole or self.lowest < 0 or self.highest > 65535)

    @property
    def statement(self) -> Statement:
        """The range in place of ``bits: auto``: the next usual number of bits that holds all samples, if that can be.

        Raises:
            UserError: no picture could be read, or all samples are the same.
        """
        if not self.seen:
            raise UserError("bits: auto finds no range: no training image could be read; state the number")
        if not self.deep:
            return {"bits": 16}
        if self.whole and self.lowest >= 0:
            needed = int(self.highest).bit_length()
            return {"bits": next((bits for bits in DEPTHS if bits >= needed), needed)}
        if self.lowest == self.highest:
            raise UserError(f"bits: auto finds no range: every sample of {self.deep} images is {self.lowest:g}")
        return {"value_range": [self.lowest, self.highest]}

    def with_samples(self, values: np.ndarray, largest: int) -> Survey:
        """Returns what was found with one picture more: its samples as they are stored, and its file's largest."""
        colours = values[:, :, :3] if values.ndim == 3 else values
        return Survey(
            self.seen,
            self.deep + 1,
            min(self.lowest, float(colours.min())),
            max(self.highest, float(colours.max())),
            max(self.largest, largest),
            self.whole and colours.dtype.kind != "f",
        )


def survey(load: Callable[[int], Any], count: int, most: int, seed: int = 0) -> Survey:
    """Looks at the values that the pictures of a set hold: at ``most``, drawn by ``seed`` if there are more.

    Args:
        load: returns the file of picture ``index``, as bytes; anything else has 8 bits a sample. What cannot be read
            (``ImageError``) is left out.
    """
    chosen = np.arange(count)
    if count > most:
        chosen = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
    found = Survey()
    for index in chosen.tolist():
        try:
            data = load(index)
            found = found._replace(seen=found.seen + 1)
            if isinstance(data, bytes) and is_deep(data):
                noted: list[tuple[np.ndarray, int]] = []
                decode_image(data, value_range=SIXTEEN_BITS, note=lambda *samples, noted=noted: noted.append(samples))
                found = found.with_samples(*noted[0])
        except ImageError:
            continue
    return found


def own_range(data: bytes) -> Range | None:
    """Returns the range of a single file's samples: for a look at it alone, whose brightness does not matter.

    None for 8 bits a sample, and for what cannot be read.
    """
    found = survey(lambda _: data, 1, 1)
    if not found.deep:
        return None
    return SIXTEEN_BITS if found.lowest == found.highest else range_of(found.statement)


def is_deep(data: bytes) -> bool:
    """Tells from its header whether a file has more than 8 bits a sample."""
    if data.startswith(JPEG_START):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return deep_form(image) is not None
    except Exception:  # noqa: BLE001 - Pillow's readers raise nearly anything; what is wrong is said by the decoder.
        return False


def range_warning(found: Survey, value_range: Range | None) -> str | None:
    """Says in one line that most of the range in use (None: of the files) is empty, or that samples lie beyond it."""
    if not found.deep or found.needs_range and value_range is None:
        return None
    low, high = value_range or (0.0, found.largest)
    words = f"{found.deep} of {found.seen} images have" if found.seen > 1 else "an image has"
    words += (
        f" more than 8 bits a sample; the largest value is {found.highest:.10g}, but the range is {low:.10g} to "
        f"{high:.10g}"
    )
    if found.highest < low + EMPTY_SHARE * (high - low):
        near = as_yaml(found.statement) if found.whole and found.lowest >= 0 else "bits: auto"
        return (
            f"{words}: most of it is empty, which leaves nearly black pictures; state {near} at the decode operator "
            "(DecodeImage, Decode)"
        )
    if found.highest > high:
        return f"{words}: all that lies above becomes white"
    return None


def resolved_statement(
    statement: Statement, load: Callable[[int], Any], count: int, seed: int = 0
) -> tuple[Statement, Survey]:
    """Returns a statement with the number that fits a training set in place of ``bits: auto``, and what the set holds;
    see :func:`survey`."""
    found = survey(load, count, FOUND_ON if is_auto(statement) else WARNED_ON, seed)
    return found.statement if is_auto(statement) else statement, found


def resolve_auto_range(data: Any, load: Callable[[int], Any], count: int, seed: int = 0) -> Statement:
    """As :func:`resolved_statement`, for the data of a configuration: says the number; warns of a range that does not
    fit.

    Raises:
        UserError: most pictures hold samples that have no range of their own, and none is stated.
    """
    stated = statement_in(data)
    statement, found = resolved_statement(stated, load, count, seed)
    if statement != stated:
        values = f"values {found.lowest:.10g} to {found.highest:.10g}" if found.deep else "none has more than 8 bits"
        logger.info("bits: auto is %s (%s; looked at %d of %d images)", as_yaml(statement), values, found.seen, count)
    elif found.needs_range and not statement and 2 * found.deep > found.seen:
        raise UserError(
            f"{found.deep} of {found.seen} training images hold samples from {found.lowest:.10g} to "
            f"{found.highest:.10g}, which have no agreed range: state value_range: [low, high] or bits: auto at the "
            "decode operator"
        )
    if remark := range_warning(found, range_of(statement)):
        logger.warning("%s", remark)
    return statement


class RangeWatch:
    """Warns, once, where a picture at inference does not fit the range that the model was given.

    A single picture may be dark: that most of a stated range is empty says nothing then, unless all of its samples
    would become the byte 0, as fractions of a camera that counts do.
    """

    def __init__(self, value_range: AnyRange) -> None:
        self.value_range = value_range
        # A range that is still to be found fits nothing: the decoder tells it.
        self.told = value_range == AUTO

    def __call__(self, values: np.ndarray, largest: int) -> None:
        """Looks at the samples ``[H, W]`` or ``[H, W, C]`` of a picture, and the largest value of its file."""
        if self.told:
            return
        found = Survey(seen=1).with_samples(values, largest)
        low, high = self.value_range or (math.nan, math.nan)
        black = found.lowest < found.highest < low + (high - low) / 256
        fits = found.highest <= high and not black
        if not fits and (remark := range_warning(found, self.value_range)):
            logger.warning("%s; for an export, infer.py and serve.py take --bits", remark)
            self.told = True
