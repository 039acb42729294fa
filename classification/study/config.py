"""The YAML of a study: rows, ablations and seeds. Reads no data and loads no Paddle: errors come at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from classification.config import Config, load_config
from ppcls_ext.deploy.published import PUBLISHED_ON_CIFAR100, Published
from ppcls_ext.utils.config import Document, apply_override, load_config_file
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.schema import Checker

KEYS = ("output_dir", "seeds", "overrides", "rows", "ablations")
# A row's name is the name of its folder, beside which the study's own files stand.
ROW_NAME = re.compile(r"(?!.*\.(json|md|png)$)[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# The study gives each run its own.
OWN_KEYS = ("Global.output_dir", "Global.seed", "Global.checkpoints")
CHOSEN = "is chosen by the study for each run (output_dir, seeds)"


@dataclass
class RowSettings:
    """One entry of ``rows``.

    Attributes:
        name: of the row and of its folder.
        config: a classification configuration; the path is relative to the working directory, as all paths are.
        overrides: dotted keys of that configuration and their values, as ``-o`` takes them.
        seeds: of this row, where they differ from those of the study.
        published: a name of the table of published figures on CIFAR-100, shown beside the row's own.
    """

    name: str
    config: str
    overrides: dict = field(default_factory=dict)
    seeds: list[int] | None = None
    published: str | None = None


@dataclass
class AblationSettings:
    """One entry of ``ablations``: a row with one thing changed.

    Attributes:
        name: of the row and of its folder.
        base: name of the row that it differs from.
        overrides: what is changed, by dotted key.
        seeds: of this row, where they differ from those of the study.
    """

    name: str
    base: str
    overrides: dict
    seeds: list[int] | None = None


@dataclass(frozen=True)
class Row:
    """A row to train, once for each seed.

    Attributes:
        name: of the row and of its folder.
        config_file: its configuration.
        changes: of that configuration, ``KEY=VALUE``, in the order in which they are applied.
        seeds: one run each.
        base: for an ablation the row that it differs from, else None.
        differences: for an ablation what differs, ``KEY=VALUE``.
        published: figures of others, or None.
    """

    name: str
    config_file: str
    changes: tuple[str, ...]
    seeds: tuple[int, ...]
    base: str | None = None
    differences: tuple[str, ...] = ()
    published: Published | None = None


@dataclass(frozen=True)
class Study:
    """A whole checked study.

    Attributes:
        name: of its file, without ending.
        path: its file.
        output_dir: each run stands in ``output_dir/ROW/seed_N``.
        rows: the rows, then the ablations.
    """

    name: str
    path: Path
    output_dir: Path
    rows: tuple[Row, ...]

    def choose(self, names: Sequence[str]) -> tuple[Row, ...]:
        """Returns the rows of these names in the order of the file; all if there are no names.

        Raises:
            UserError: there is no such row.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(f"{self.path}: no row '{name}'{suggestion(name, known)}; rows: {', '.join(known)}")
        return tuple(row for row in self.rows if not names or row.name in names)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and checks a study and the configuration of each of its rows.

    Args:
        path: the file.
        overrides: ``KEY=VALUE`` changes of the configuration of every row; they go last.

    Raises:
        ConfigError: every mistake of the file, one line each with its place.
        UserError: the file cannot be read.
    """
    _check_overrides(overrides)
    document = load_config_file(path)
    checker = Checker(document)
    data = document.data
    checker.known_keys("", data, KEYS)
    output_dir = _read_output_dir(checker, data.get("output_dir"))
    seeds = _read_seeds(checker, data.get("seeds", [0]), "seeds")
    common = _read_changes(checker, data.get("overrides") or {}, "overrides")
    rows = _read_rows(checker, data.get("rows"), seeds, common)
    rows += _read_ablations(checker, data, seeds, {row.name: row for row in rows})
    _check_names(checker, rows, data)
    rows = [replace(row, changes=row.changes + tuple(overrides)) for row in rows]
    checker.raise_any()
    _check_configurations(checker, document, rows)
    checker.raise_any()
    return Study(document.path.stem, document.path, Path(output_dir), tuple(rows))


def _check_overrides(overrides: Sequence[str]) -> None:
    """Refuses a malformed change once, not once for each row."""
    for change in overrides:
        apply_override(Document(Path(), {}, {}), change)
        key = change.partition("=")[0].strip()
        if key in OWN_KEYS:
            raise UserError(f"-o {change}: {key} {CHOSEN}")


def _read_output_dir(checker: Checker, value: Any) -> str:
    if not isinstance(value, str) or not value:
        checker.add("output_dir", f"must be the folder of the study's runs, got {value!r}")
        return ""
    return value


def _read_seeds(checker: Checker, value: Any, key: str) -> tuple[int, ...]:
    fits = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value)
    if not fits or len(set(value)) < len(value):
        checker.add(key, f"must be a list of different whole numbers from 0, got {value!r}")
        return ()
    return tuple(value)


def _read_changes(checker: Checker, value: Mapping[Any, Any] | Any, key: str) -> tuple[str, ...]:
    """Returns a mapping of dotted keys as ``KEY=VALUE``; JSON is YAML, in one line."""
    if not isinstance(value, dict):
        checker.add(key, f"must be a mapping of dotted keys such as Arch.drop_path_rate, got {value!r}")
        return ()
    for name in value:
        if name in OWN_KEYS:
            checker.add(f"{key}.{name}", CHOSEN)
    # Dates, which YAML knows and JSON does not, as text: no key takes them, and the check of the row says so.
    return tuple(f"{name}={json.dumps(entry, ensure_ascii=False, default=str)}" for name, entry in value.items())


def _entries(checker: Checker, section: Any, key: str) -> list[tuple[str, Any]]:
    """Returns key and value of each entry of a list."""
    if not isinstance(section, list):
        checker.add(key, f"must be a list of mappings, got {section!r}")
        return []
    return [(f"{key}[{index}]", entry) for index, entry in enumerate(section)]


def _read_rows(checker: Checker, section: Any, seeds: tuple[int, ...], common: tuple[str, ...]) -> list[Row]:
    rows = []
    for key, entry in _entries(checker, section, "rows"):
        settings = checker.build(RowSettings, entry, key)
        if settings is None:
            continue
        own = seeds if settings.seeds is None else _read_seeds(checker, settings.seeds, f"{key}.seeds")
        changes = common + _read_changes(checker, settings.overrides, f"{key}.overrides")
        published = _read_published(checker, settings.published, f"{key}.published")
        rows.append(Row(settings.name, settings.config, changes, own, published=published))
    return rows


def _read_published(checker: Checker, name: str | None, key: str) -> Published | None:
    if name is None or checker.choice(name, key, PUBLISHED_ON_CIFAR100) is None:
        return None
    return PUBLISHED_ON_CIFAR100[name]


def _read_ablations(
    checker: Checker, data: Mapping[str, Any], seeds: tuple[int, ...], bases: Mapping[str, Row]
) -> list[Row]:
    ablations = []
    section = data.get("ablations")
    # A base that is there but wrong has a line of its own already.
    named = [entry.get("name") for _, entry in _named(data, "rows")]
    for key, entry in _entries(checker, section if section is not None else [], "ablations"):
        settings = checker.build(AblationSettings, entry, key)
        if settings is None or not named or (settings.base in named and settings.base not in bases):
            continue
        if checker.choice(settings.base, f"{key}.base", bases) is None:
            continue
        base = bases[settings.base]
        own = seeds if settings.seeds is None else _read_seeds(checker, settings.seeds, f"{key}.seeds")
        differences = _read_changes(checker, settings.overrides, f"{key}.overrides")
        if not differences:
            checker.add(f"{key}.overrides", "is empty: an ablation changes something of its base")
        row = Row(settings.name, base.config_file, base.changes + differences, own, base.name, differences)
        ablations.append(row)
    return ablations


def _check_names(checker: Checker, rows: Iterable[Row], data: Mapping[str, Any]) -> None:
    if data.get("rows") == []:
        checker.add("rows", "must hold at least one row")
    seen: set[str] = set()
    for key, entry in [*_named(data, "rows"), *_named(data, "ablations")]:
        name = entry.get("name")
        if not isinstance(name, str):
            continue
        if not ROW_NAME.fullmatch(name):
            fit = "at most 100 letters, digits, . _ + -; the endings .json, .md, .png are those of the study's files"
            checker.add(f"{key}.name", f"must be fit for a folder ({fit}), got {name!r}")
        if name in seen:
            checker.add(f"{key}.name", f"'{name}' stands twice; each row has a folder of its own")
        seen.add(name)


def _named(data: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    entries = data.get(key)
    entries = entries if isinstance(entries, list) else []
    return [(f"{key}[{index}]", entry) for index, entry in enumerate(entries) if isinstance(entry, dict)]


def _check_configurations(checker: Checker, document: Document, rows: Sequence[Row]) -> None:
    """Loads each row's configuration once, so that nothing is trained for hours before the last row is refused."""
    keys = [key for section in ("rows", "ablations") for key, _ in _named(document.data, section)]
    for key, row in zip(keys, rows, strict=True):
        try:
            config = load_config(row.config_file, row.changes)
        except UserError as error:
            for line in str(error).splitlines():
                checker.add(key, f"{row.name}: {line}")
            continue
        if config.eval is None or not config.run.eval_during_train:
            checker.add(key, f"{row.name}: {row.config_file} evaluates nothing, so nothing can be compared")


def run_config(row: Row, seed: int, folder: Path) -> tuple[tuple[str, ...], Config]:
    """Returns the changes that make one run of a row, and the configuration that results."""
    own = (f"Global.output_dir={json.dumps(str(folder), ensure_ascii=False)}", f"Global.seed={seed}")
    changes = (*row.changes, *own)
    return changes, load_config(row.config_file, changes)
