"""What belongs together in a configuration of YOLOv10: scale, backbone and neck."""

from __future__ import annotations

from typing import Any

from detection.yolov10.scales import NECK_PLACES, SCALES, WIDTH_PROBLEM, place_problems, scale_problem
from ppcls_ext.utils.config import Problems

ARCHITECTURE = "YOLOv10"
_BACKBONE = "YOLOv10Backbone"
_NECK = "YOLOv10Neck"


def check_yolov10(data: dict[str, Any], problems: Problems) -> None:
    """Notes what a YOLOv10 would refuse or ignore; other architectures are left alone.

    Types of arguments and unknown names are not looked at here: sections are checked against their classes as well.
    """
    if data.get("architecture") != ARCHITECTURE:
        return
    for key, values in (("", data), (f"{_NECK}.", _section(data, _NECK))):
        if values.get("width_mult") is not None:
            problems.add(f"{key}width_mult", f"{WIDTH_PROBLEM}, got {values['width_mult']!r}")
    wrong = [key for key in _scale_keys(data) if scale_problem(_value(data, key))]
    for key in wrong:
        problems.add(key, scale_problem(_value(data, key)))
    if not wrong:
        backbone = _section(data, ARCHITECTURE).get("backbone", _BACKBONE)
        _check_scale(data, backbone, problems)
        if _section(data, ARCHITECTURE).get("neck", _NECK) == _NECK:
            _check_neck(data, backbone, problems)


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    section = data.get(name)
    return section if isinstance(section, dict) else {}


def _value(data: dict[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return (_section(data, section) if section else data).get(name)


def _scale_keys(data: dict[str, Any]) -> list[str]:
    """Returns the places where a scale is given."""
    keys = ("scale", f"{_BACKBONE}.scale", f"{_NECK}.scale")
    return [key for key in keys if _value(data, key) is not None]


def _key_in_force(data: dict[str, Any], section: str, name: str) -> str | None:
    """Returns where the value of ``section.name`` comes from: the section, else the top, as PaddleDetection does."""
    return next((key for key in (f"{section}.{name}", name) if _value(data, key) is not None), None)


def _check_scale(data: dict[str, Any], backbone: Any, problems: Problems) -> None:
    key = _key_in_force(data, _NECK, "scale")
    if backbone == _BACKBONE:
        own = _key_in_force(data, _BACKBONE, "scale")
        if own is None:
            problems.add("", f"missing key 'scale': {_BACKBONE} needs one of {', '.join(SCALES)}")
        elif key is not None and _value(data, own) != _value(data, key):
            problems.add(key, f"is {_value(data, key)}, but that of the backbone is {_value(data, own)}")
    elif key is not None:
        problems.add(
            key, f"belongs to {_BACKBONE}; with {backbone} leave it null, and give {_NECK}.depth_mult and {_NECK}.cib"
        )


def _check_neck(data: dict[str, Any], backbone: Any, problems: Problems) -> None:
    depth = _key_in_force(data, _NECK, "depth_mult")
    places = {name: _value(data, f"{_NECK}.{name}") for name in ("cib", "large_kernel")}
    scale = _key_in_force(data, _NECK, "scale")
    if scale is not None:
        if backbone == _BACKBONE:
            given = [depth, *(f"{_NECK}.{name}" for name, value in places.items() if value is not None)]
            for key in filter(None, given):
                problems.add(key, f"must not be given: it follows from scale {_value(data, scale)}")
        return
    if backbone == _BACKBONE and _key_in_force(data, _BACKBONE, "scale") is None:
        return
    if depth is None:
        problems.add(_NECK, "missing argument 'depth_mult', a number above 0, for there is no scale")
    elif isinstance(_value(data, depth), int | float) and _value(data, depth) <= 0:
        problems.add(depth, f"must be above 0, got {_value(data, depth)}")
    if places["cib"] is None:
        problems.add(_NECK, f"missing argument 'cib', a list of {', '.join(NECK_PLACES)}, for there is no scale")
    for name, problem in place_problems(places["cib"] or [], places["large_kernel"] or []).items():
        problems.add(f"{_NECK}.{name}", problem)
