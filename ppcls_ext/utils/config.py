"""YAML files as data that remember their lines, with ``-o KEY.SUB=VALUE`` changes. Nothing is ever evaluated."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.utils.errors import ConfigError, UserError, suggestion
from ppcls_ext.utils.texts import TextError, read_text

_UNKNOWN = re.compile(r"unknown (?:argument|key) '([^']+)'")
# What reading raises: ValueError and OverflowError are of characters that do not exist (``"\UFFFFFFFF"``).
YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError, RecursionError)
_KEY = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d+\])*")
_KEY_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
# Words of YAML that are no text, whatever stands at their key so far.
_TRUTH = ("true", "false")


class ConfigLoader(yaml.SafeLoader):
    """YAML 1.1 in which ``4e-3`` is a number."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Returns what a node means; of a text that does not fit its tag (``!!bool perhaps``) it says so."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            problem = f"'{node.value}' does not fit its tag !!{node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclasses.dataclass
class Document:
    """A configuration and where each of its keys stands.

    Attributes:
        path: the file it came from.
        data: plain dictionaries, lists and scalars.
        lines: ``"path:line"`` of each dotted key, e.g. ``{"Arch.name": "configs/quickstart.yaml:12"}``.
        texts: what ``-o KEY=TEXT`` said for each dotted key, as it stands; the schema, which knows the types of keys,
            has the last word about what it means.
        refused: what is said of the texts that are no YAML, by dotted key, unless a key turns out to take text.
        overrides: the changes that were applied, as they stand after ``-o``.
        notes: what was changed beyond what was asked for; a training says it.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[str, str]
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    overrides: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def place_of(self, key: str) -> str:
        """Returns ``path:line`` of ``key`` or, where the file lacks it, of the nearest key above it."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return str(self.path)

    def is_overridden(self, key: str) -> bool:
        """Tells whether what stands at ``key`` comes from ``-o``."""
        return self.place_of(key).startswith("-o ")

    def problem(self, key: str, message: str) -> str:
        """Returns the line that is shown to the user: place, dotted key, what is wrong."""
        # An unknown name is reported under the section that lacks it, but it stands on a line of its own.
        unknown = _UNKNOWN.match(message)
        place = self.place_of(f"{key}.{unknown[1]}" if unknown and key else unknown[1] if unknown else key)
        return f"{place}: {key}: {message}" if key else f"{place}: {message}"

    def put(self, key: str, value: Any) -> None:
        """Sets the value of an existing dotted key."""
        *above, last = _parts_of(key)
        holder: Any = self.data
        for part in above:
            holder = holder[part]
        holder[last] = value


def load_config_file(path: str | Path, loader: type[ConfigLoader] = ConfigLoader) -> Document:
    """Reads a YAML file with ``loader``, whose own kinds have constructors for tags.

    Raises:
        UserError: the file is missing, is no YAML, holds a key twice or is not a mapping.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"a configuration is the path of a YAML file, got {type(path).__name__}")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {missing_file_message(path)}")
    try:
        node = yaml.compose(read_text(path), Loader=loader)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}: must hold a mapping of sections such as Global, Arch and DataLoader")
        lines: dict[str, str] = {}
        _record_lines(node, "", path, lines)
        # Copied, so that a change of one key leaves alone what a YAML anchor put elsewhere too.
        data = plain_copy(loader("").construct_document(node))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: is not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise UserError(f"{path}: an anchor stands inside itself, or it is nested too deeply") from error
    except YAML_ERRORS as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    return Document(path, data, lines)


def is_detection_config(path: str | Path) -> bool:
    """Tells whether a configuration is PaddleDetection's: it has ``architecture``, or builds on files that have it.

    One with ``Arch`` is a classification configuration, whatever else it has.
    A file that cannot be read is none; who loads it says what is wrong with it.
    """
    try:
        node = yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except (OSError, TextError, TypeError, yaml.YAMLError, RecursionError):
        return False
    keys = {str(key.value) for key, _value in node.value} if isinstance(node, yaml.MappingNode) else set()
    return bool(keys & {"architecture", "_BASE_"}) and "Arch" not in keys


def missing_file_message(path: Path) -> str:
    """Says that ``path`` is no configuration file, and names the nearest one beside it."""
    if path.is_dir():
        return "is a folder, not a YAML file"
    neighbours = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    return f"no such configuration file{suggestion(path.name, neighbours)}"


def _record_lines(node: yaml.Node, key: str, path: Path, lines: dict[str, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            name = str(key_node.value)
            place = f"{path}:{key_node.start_mark.line + 1}"
            if name in seen and name != "<<":
                raise UserError(f"{place}: the key '{name}' stands twice in the same section")
            seen.add(name)
            child = f"{key}.{name}" if key else name
            lines[child] = place
            _record_lines(value_node, child, path, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value_node in enumerate(node.value):
            lines[f"{key}[{index}]"] = f"{path}:{value_node.start_mark.line + 1}"
            _record_lines(value_node, f"{key}[{index}]", path, lines)


def parse_value(text: str) -> Any:
    """Reads the right side of ``-o KEY=VALUE`` as YAML: ``3``, ``4e-3``, ``true``, ``[1, 2]``, ``{a: 1}``, ``text``.

    Raises:
        ValueError: ``text`` is not valid YAML.
    """
    try:
        return plain_copy(yaml.load(text, Loader=ConfigLoader))
    except YAML_ERRORS as error:
        raise ValueError(f"'{text}' is not a YAML value") from error


def parse_text(text: str) -> str:
    """Returns ``text`` as it stands, for a key that takes text; what is wholly in quotes is read as in a YAML file."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            inside = parse_value(text)
        except ValueError:
            return text
        return inside if isinstance(inside, str) else text
    return text


def is_empty(text: str) -> bool:
    """Tells whether the right side of ``-o KEY=`` empties a key that may be left out."""
    return text in ("", "null")


def apply_override(document: Document, change: str) -> None:
    """Applies one ``KEY.SUB=VALUE``; sections and keys that the file lacks are made (the schema judges them later).

    List entries are named ``KEY[0]`` or, as in PaddleClas, ``KEY.0``. The value is read as YAML, or taken as it stands
    where a text stands so far or where it is no YAML; the schema then goes by the type of the key, where it knows that.

    Raises:
        UserError: there is no ``=``, the list entry does not exist, or the key goes below a scalar.
    """
    key, separator, text = change.partition("=")
    key = key.strip()
    parts = _parts_of(key)
    if not separator or not _KEY.fullmatch(key):
        raise UserError(f"-o {change}: must have the form KEY.SUB=VALUE, such as Global.epochs=10")
    value: Any = text
    refusal = ""
    try:
        value = parse_value(text)
    except ValueError as error:
        refusal = f"{error}; if a text is meant, put it in double quotes"
    holder: Any = document.data
    dotted = ""
    for part in parts[:-1]:
        place, dotted = _place(holder, part, dotted, change)
        if isinstance(holder, dict) and holder.get(place) is None:
            holder[place] = {}
            document.lines[dotted] = f"-o {change}"
        holder = holder[place]
    place, dotted = _place(holder, parts[-1], dotted, change)
    before = holder.get(place) if isinstance(holder, dict) else holder[place]
    is_text = isinstance(before, str) and not isinstance(value, dict | list)
    if is_text and not is_empty(text) and text.lower() not in _TRUTH:
        value, refusal = parse_text(text), ""
    holder[place] = value
    for known in (document.lines, document.texts, document.refused):
        for name in [name for name in known if name == dotted or name.startswith((f"{dotted}.", f"{dotted}["))]:
            del known[name]
    document.lines[dotted] = f"-o {change}"
    document.texts[dotted] = text
    if refusal:
        document.refused[dotted] = refusal
    document.overrides.append(change)


def _parts_of(key: str) -> list[str | int]:
    """Returns ``["A", 0, "b"]`` for ``A[0].b``."""
    return [name or int(index) for name, index in _KEY_PART.findall(key)]


def _place(holder: Any, part: str | int, dotted: str, change: str) -> tuple[str | int, str]:
    """Returns what a part of a key means in a section or list at the key ``dotted``, and the key with this part."""
    if isinstance(holder, dict):
        return str(part), f"{dotted}.{part}" if dotted else str(part)
    if not isinstance(holder, list):
        raise UserError(f"-o {change}: '{dotted}' holds the value {holder!r} and has no keys below it")
    if not str(part).isdecimal() or int(part) >= len(holder):
        allowed = f"0 to {len(holder) - 1}" if holder else "none (the list is empty)"
        raise UserError(f"-o {change}: '{dotted}' is a list; '{part}' is not one of its entries {allowed}")
    return int(part), f"{dotted}[{part}]"


def plain_copy(value: Any) -> Any:
    """Returns a copy of dictionaries and lists in which no part stands twice (YAML anchors share theirs).

    Subclasses of ``dict`` stay what they are.
    """
    if isinstance(value, dict):
        return type(value)({key: plain_copy(part) for key, part in value.items()})
    return [plain_copy(part) for part in value] if isinstance(value, list) else value


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Returns the scalars of nested mappings and lists by dotted key, such as ``Optimizer.lr.name``."""
    if isinstance(value, dict):
        parts = [(f"{key}.{name}" if key else str(name), entry) for name, entry in value.items()]
    elif isinstance(value, list):
        parts = [(f"{key}[{index}]", entry) for index, entry in enumerate(value)]
    else:
        return {key: value}
    return {inner: scalar for name, entry in parts for inner, scalar in flatten(entry, name).items()}


def changed_keys(before: dict[str, Any], now: dict[str, Any], without_effect: tuple[str, ...] = ()) -> list[str]:
    """Returns ``KEY BEFORE -> NOW`` for each dotted key that differs between two configurations, sorted.

    Keys that begin with one of ``without_effect`` may differ.
    """
    old, new = flatten(before), flatten(now)
    return [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(without_effect)
    ]


class Problems:
    """Collects every problem of one document, so that a user mends them in one go."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._lines: list[str] = []
        self._keys: set[str] = set()

    def add(self, key: str, message: str) -> None:
        """Notes that ``key`` (dotted) is wrong."""
        self._keys.add(key)
        line = self.document.problem(key, message)
        if line not in self._lines:
            self._lines.append(line)

    def raise_any(self) -> None:
        """Raises:
        ConfigError: at least one problem was noted, or an ``-o`` is no YAML and its key takes no text.
        """
        for key, message in self.document.refused.items():
            if key not in self._keys:
                self.add(key, message)
        if self._lines:
            raise ConfigError(self._lines)
