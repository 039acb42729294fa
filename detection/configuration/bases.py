"""A YAML file with the files that its ``_BASE_`` names, merged as PaddleDetection merges them."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.utils.config import ConfigLoader, Document, load_config_file, missing_file_message, parent_key
from ppcls_ext.utils.errors import UserError

BASE_KEY = "_BASE_"


class Tagged(dict[str, Any]):
    """A section such as ``!COCODataSet {...}``, as ``{name: COCODataSet, ...}``.

    For PaddleDetection it is a finished object: it replaces the section of a base file, and is replaced, as a whole.
    """


class _TagLoader(ConfigLoader):
    """Reads PaddleDetection's tags, without making the objects that they stand for."""


def _construct_tagged(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.ScalarNode) and node.value == "":
        return Tagged(name=name)
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, f"!{name} must stand before a mapping of its arguments", node.start_mark
        )
    return Tagged({"name": name, **loader.construct_mapping(node, deep=True)})


_TagLoader.add_multi_constructor("!", _construct_tagged)


def load_with_bases(path: str | Path, _above: tuple[Path, ...] = ()) -> Document:
    """Reads ``path`` and the files that its ``_BASE_`` names (one or a list, relative to it), which may have their own.

    Mappings are merged key by key; of anything else the later one counts: a later base before an earlier one, the
    file itself before its bases. Every key keeps the place in the file that it came from.

    Raises:
        UserError: a file is missing, is no YAML, or includes itself.
    """
    path = Path(path)
    document = load_config_file(path, loader=_TagLoader)
    above = (*_above, path)
    merged = Document(path, {}, {})
    for key, base in _base_files(document):
        place = f"{document.place_of(key)}: {key}"
        if any(base.resolve() == other.resolve() for other in above):
            chain = " -> ".join(file.name for file in (*above, base))
            raise UserError(f"{place}: the file includes itself ({chain})")
        if not base.is_file():
            raise UserError(f"{place}: {base}: {missing_file_message(base)}")
        merge(merged, load_with_bases(base, above))
    document.data.pop(BASE_KEY, None)
    for line in [line for line in document.lines if line == BASE_KEY or line.startswith(f"{BASE_KEY}[")]:
        del document.lines[line]
    merge(merged, document)
    return merged


def _base_files(document: Document) -> list[tuple[str, Path]]:
    """Returns dotted key and path of each file that ``_BASE_`` names."""
    names = document.data.get(BASE_KEY, [])
    named = [(BASE_KEY, names)] if isinstance(names, str) else None
    if named is None and isinstance(names, list):
        named = [(f"{BASE_KEY}[{index}]", name) for index, name in enumerate(names)]
    if named is None or not all(isinstance(name, str) and name for _, name in named):
        raise UserError(document.problem(BASE_KEY, "must be the name of a file or a list of them"))
    folder = document.path.parent
    return [(key, Path(os.path.normpath(folder / Path(name).expanduser()))) for key, name in named]


def merge(below: Document, above: Document) -> None:
    """Merges ``above`` into ``below``, in place, with the places of its keys."""
    replaced: list[str] = []
    _merge_data(below.data, above.data, "", replaced)
    for key in [line for line in below.lines if _stands_below(line, replaced)]:
        del below.lines[key]
    below.lines.update(above.lines)


def _merge_data(below: dict[str, Any], above: dict[str, Any], prefix: str, replaced: list[str]) -> None:
    for name, value in above.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        old = below.get(name)
        if _can_merge(old) and _can_merge(value):
            _merge_data(old, value, key, replaced)
        else:
            below[name] = value
            replaced.append(key)


def _can_merge(value: Any) -> bool:
    return isinstance(value, dict) and not isinstance(value, Tagged)


def _stands_below(line: str, keys: list[str]) -> bool:
    while line:
        if line in keys:
            return True
        line = parent_key(line)
    return False
