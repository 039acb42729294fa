"""Detection configurations: PaddleDetection's YAML with its ``_BASE_`` files merged as PaddleDetection merges them."""

from __future__ import annotations

import dataclasses
import logging
import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from detection.configuration.short_keys import PARTS, SHORT_KEYS, set_class_count, warn_of_other_size
from detection.geometry import UNSAID, BoxReading
from detection.schedule import EPOCHS, LENGTHS
from ppcls_ext.preprocess import depth
from ppcls_ext.utils.config import (
    ConfigLoader,
    Document,
    apply_override,
    flatten,
    load_config_file,
    missing_file_message,
)
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.lengths import follow_epochs
from ppcls_ext.utils.names import meant_path, user_path

if TYPE_CHECKING:
    from detection.configuration.checks import RunKeys

logger = logging.getLogger(__name__)

BASE_KEY = "_BASE_"
ENHANCEMENT = "SonarEnhance"


@dataclasses.dataclass(frozen=True)
class DatasetFiles:
    """Where one part of a data set lies.

    Attributes:
        image_dir: the folder that the file names in the annotations start from.
        annotations: the COCO annotation file, or ``None`` where the section names none; ``reading``: what the section
            says about the boxes in it.
    """

    image_dir: Path
    annotations: Path | None
    reading: BoxReading = UNSAID


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """A configuration with its ``_BASE_`` files merged and its ``-o`` changes applied."""

    document: Document

    @property
    def path(self) -> Path:
        """The file that was loaded."""
        return self.document.path

    @property
    def data(self) -> dict[str, Any]:
        """PaddleDetection's sections, as plain dictionaries, lists and scalars."""
        return self.document.data

    @property
    def run_keys(self) -> RunKeys:
        """The top-level keys with a single value, those that are absent by their defaults."""
        from detection.configuration.checks import RunKeys

        return RunKeys.model_validate({str(name): value for name, value in self.data.items()})

    @property
    def architecture(self) -> str:
        """Name of the detector, such as ``PPYOLOE``."""
        return self.data["architecture"]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.data["num_classes"]

    @property
    def epochs(self) -> int:
        """Number of training epochs."""
        return self.data["epoch"]

    @property
    def output_dir(self) -> Path:
        """The folder of the run: ``save_dir`` and the name of the configuration, as in PaddleDetection."""
        return user_path(self.run_keys.save_dir) / self.path.stem

    @property
    def datasets(self) -> dict[str, DatasetFiles]:
        """Image folder and annotation file of ``Train``, ``Eval`` and ``Test``, as far as the sections are there."""
        found = {}
        for part in PARTS:
            section = self.data.get(f"{part}Dataset")
            if not isinstance(section, dict):
                continue
            root = user_path(section.get("dataset_dir") or "")
            annotations = section.get("anno_path")
            found[part] = DatasetFiles(
                image_dir=meant_path(root / (section.get("image_dir") or "")),
                annotations=meant_path(root / annotations) if annotations else None,
                reading=BoxReading.among(section),
            )
        return found

    def with_depth(self, statement: depth.Statement) -> DetectionConfig:
        """Returns the configuration whose decode operators all state this range of values."""
        if statement == depth.statement_in(self.data):
            return self
        data = depth.with_statement(self.data, statement)
        return DetectionConfig(dataclasses.replace(self.document, data=data))

    def as_trained(self, weights: Path) -> DetectionConfig:
        """Returns the configuration with the range of values that the run of ``weights``, a file, used; warns where its
        inputs had another size."""
        warn_of_other_size(self.data, weights, self.path)
        return self.with_depth(depth.as_trained(self.data, weights, str(self.path)))

    def to_yaml(self) -> str:
        """Returns the resolved configuration as YAML, which we and PaddleDetection load to the same data."""
        return yaml.safe_dump(self.data, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DetectionConfig:
    """Reads ``path`` with its ``_BASE_`` files, applies ``KEY.SUB=VALUE`` changes and checks the result.

    Raises:
        UserError: a file is missing, is no YAML or includes itself; a change has no ``=`` or no place; ``image_size``
            or ``dataset_dir`` is none; ``num_classes: auto`` without the annotation file that has the classes.
        ConfigError: all that is wrong with the values, one line each.
    """
    from detection.configuration.checks import check_document

    document = load_with_bases(path)
    document.data = _plain(document.data)
    if "Arch" in document.data:
        raise UserError(f"{path}: this is a classification configuration; use a detection configuration (architecture)")
    epochs = document.data.get(EPOCHS)
    for change in overrides:
        apply_override(document, change)
        if spread := SHORT_KEYS.get(change.partition("=")[0].strip()):
            spread(document)
    follow_epochs(document, EPOCHS, LENGTHS, epochs, document.is_overridden)
    set_class_count(document)
    check_document(document)
    for key in SHORT_KEYS:
        document.data.pop(key, None)
    return DetectionConfig(document)


def _plain(value: Any) -> Any:
    """Returns ``value`` with plain dictionaries in place of those that remember a tag."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


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
    for key, spread in SHORT_KEYS.items():
        if key in document.data:
            spread(merged)
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
    return [(key, Path(os.path.normpath(meant_path(folder / user_path(name))))) for key, name in named]


def merge(below: Document, above: Document) -> None:
    """Merges ``above`` into ``below``, in place, with the places of its keys.

    Where it changes the number of epochs, the lengths of ``below`` that it does not state follow.
    """
    before, stated = below.data.get(EPOCHS), flatten(above.data)

    def merge_data(below: dict[str, Any], above: dict[str, Any]) -> None:
        for name, value in above.items():
            mappings = [part for part in (below.get(name), value) if isinstance(part, dict)]
            if len(mappings) == 2 and not any(isinstance(part, Tagged) for part in mappings):
                merge_data(*mappings)
            else:
                below[name] = value

    merge_data(below.data, above.data)
    below.lines.update(above.lines)
    below.notes += above.notes
    follow_epochs(below, EPOCHS, LENGTHS, before, stated.__contains__)


def operators_of(data: Mapping[str, Any], reader: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns name and arguments of the operators of a reader, those of its samples before those of its batches."""
    section = data.get(reader) or {}
    entries = [*(section.get("sample_transforms") or []), *(section.get("batch_transforms") or [])]
    return [(name, arguments or {}) for entry in entries for name, arguments in entry.items()]


def warn_of_other_contrast(config: DetectionConfig, part: str) -> None:
    """Warns if ``part`` (``Eval`` or ``Test``) enhances sonar frames otherwise than training: little would be found."""
    readers = (f"{part}Reader", "TrainReader")
    other, train = (
        [arguments for name, arguments in operators_of(config.data, reader) if name == ENHANCEMENT]
        for reader in readers
    )
    if train != other:
        logger.warning(
            "%s: SonarEnhance differs: TrainReader has %s, %sReader has %s",
            config.path, train or "none", part, other or "none",
        )  # fmt: skip
