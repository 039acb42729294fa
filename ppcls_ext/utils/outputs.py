"""What a command may write: never onto what it reads, and onto a person's own files only when told to.

Every tool names what it will write and what it reads to :func:`claim_outputs` before any work, and the single files
that it wrote to :func:`record_outputs` afterwards. A folder is known as ours by a file that its tool always writes
there (``KINDS``); a single file by its checksum in ``.outputs.sha256`` beside it. So the same command may run again,
while a file that a person made, replaced or edited is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import LOCK, sha256_of, write_json
from ppcls_ext.utils.image_files import SUFFIXES
from ppcls_ext.utils.machine import rank_from_environment
from ppcls_ext.utils.names import folded_name, is_left_behind, user_path

if TYPE_CHECKING:
    from ppcls_ext.utils.config import Document

logger = logging.getLogger(__name__)

# Lines as `sha256sum` writes them, of the files that our tools wrote beside it or in the folders beside it.
RECORD = ".outputs.sha256"
PREPARED, EXPORTED, SAMPLES, PRUNED, CACHE = ".prepared", ".exported", ".samples", ".pruned", "CACHEDIR.TAG"
# Keys of configurations that name places to write.
OUTPUT_KEYS = ("output_dir", "save_inference_dir", "save_dir", "cache")
# Files that a message names.
MOST_NAMED = 3
WEIGHT_SUFFIXES = (".pdparams", ".safetensors", ".pdopt")


class Kind(NamedTuple):
    """A folder that a tool writes.

    Attributes:
        words: what it is, for messages.
        marks: names of files; a folder with one of them is such a folder.
        text: what the mark must contain, where other software writes files of that name.
        files: names of other files that are written in it, as patterns.
        replaces_folder: the tool replaces the folder; otherwise it adds files to it.
        needs_overwrite: even a folder of ours is replaced only with ``--overwrite``, and then with all that is in it.
    """

    words: str
    marks: tuple[str, ...]
    text: str = ""
    files: tuple[str, ...] = ()
    replaces_folder: bool = False
    needs_overwrite: bool = False


KINDS = {
    # The log of a study's run begins before the run does.
    "run": Kind("the folder of a run", (LOCK, "log.jsonl", "console.log"),
                files=("train.log", "config.yaml", "report.json", "curves.png")),
    "study": Kind("the folder of a study", ("study.json",),
                  files=("comparison.csv", "comparison.md", "runs.csv", "curves.png", "accuracy_cost.png")),
    "evaluation": Kind("the folder of an evaluation", ("figures.json",),
                       files=("detections.json", "precision_recall.png", "confusion.png", "per_class_ap.png",
                              "errors.png", "panels.png", "predictions.csv", "classes.csv", "calibration.png",
                              "mistakes.png")),
    "check": Kind("the folder of a data check", ("check.json", "augmented.png"), files=("overview.png",)),
    "pictures": Kind("a folder of drawn pictures alone", ()),
    "cache": Kind("a cache of exports", (CACHE,), text="tools/benchmark.py"),
    "teacher": Kind("a cache of a teacher's outputs", ("cache.json",), files=("[0-9]*.npy",), replaces_folder=True),
    "export": Kind("an export", ("inference.yml",), text="format_version:",
                   files=("inference.json", "inference.pdiparams", "inference*.onnx", "inference*.xml",
                          "inference*.bin"), replaces_folder=True),
    # A network is added to it; whatever lies there stays.
    "extended export": Kind("an export", ("inference.yml",), text="format_version:"),
    "samples": Kind("a folder of samples", (SAMPLES,), files=("*/[0-9][0-9][0-9][0-9][0-9][0-9]*.png",),
                    replaces_folder=True),
    "prepared": Kind("a prepared data set", (PREPARED,), replaces_folder=True, needs_overwrite=True),
    "exported": Kind("an exported data set", (EXPORTED,), replaces_folder=True, needs_overwrite=True),
    "pruning": Kind("a pruned model", (PRUNED,), replaces_folder=True, needs_overwrite=True),
}  # fmt: skip


class Output(NamedTuple):
    """Something that a command will write: the option that chooses its place, the place (``None``: nothing is written),
    and a key of ``KINDS`` for a folder, ``None`` for a single file."""

    option: str
    path: Path | None
    kind: str | None = None


def claim_outputs(
    outputs: Iterable[Output],
    reads: Iterable[str | os.PathLike[str]] = (),
    searched: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> None:
    """Makes sure that a command may write its outputs; called before any work, it changes nothing if one is refused.

    With ``overwrite``, a folder that would be replaced whole and is not ours gets another name (``NAME_before``): a
    slip of the keyboard must not remove a tree of files. In a distributed run, the first process looks for all.

    Args:
        outputs: what will be written.
        reads: files and folders that are read. An output that lies in such a folder may be new, or ours.
        searched: folders in which whatever lies there is read. Pictures and folders are not written into them.
        overwrite: outputs may replace what is not ours.

    Raises:
        UserError: an output is an input, holds one or would become one; two are the same; one is not ours and there is
            no ``overwrite``; or its place cannot be written.
    """
    if rank_from_environment()[0] > 0:
        return
    wanted = [output for output in outputs if output.path is not None]
    if not wanted:
        return
    inputs, records = _Inputs([*reads, *searched], list(searched)), _Records()
    taken: dict[str, str] = {}
    aside: list[Path] = []
    for option, path, name in wanted:
        shown, kind = f"{option} {path}", KINDS[name] if name else None
        _refuse_place(shown, path, kind)
        inputs.refuse(shown, path, kind, records)
        places = [_key(path / file) for file in ("", *(kind.marks + kind.files if kind else ()))]
        for place in places:
            if place in taken:
                raise UserError(f"{shown}: {taken[place]} is written there too; choose another name")
        taken.update(dict.fromkeys(places, option))
        if kind is None:
            if os.path.lexists(path) and not overwrite and not records.hold(path):
                raise UserError(
                    f"{shown}: exists, and was not written by a tool of this project or was changed since; choose "
                    "another name, or replace it with --overwrite"
                )
        elif not _is_empty(path, kind) and _would_lose(shown, path, kind, records, overwrite):
            aside.append(path)
    for path in aside:
        _set_aside(path)


def _would_lose(shown: str, path: Path, kind: Kind, records: _Records, overwrite: bool) -> bool:
    """Tells whether writing a folder would remove what its tool did not write, so that it is first set aside.

    Raises:
        UserError: so it is, or the folder is not this tool's, and there is no ``overwrite``.
    """
    is_ours, reason = _is_of(path, kind), f"exists and is not {kind.words}"
    if is_ours and kind.needs_overwrite:
        if not overwrite:
            raise UserError(f"{shown}: is {kind.words} already; give --overwrite to replace it")
    elif is_ours and kind.replaces_folder:
        own = {file for name in (*kind.marks, *kind.files) for file in path.glob(name)}
        foreign = [str(file.relative_to(path)) for file in records.foreign_in(path, own)]
        names = ", ".join([*foreign[:MOST_NAMED], *(["..."] if len(foreign) > MOST_NAMED else [])])
        is_ours, reason = not foreign, f"holds what its tool did not write ({names})"
    if not (is_ours or overwrite) and (kind.replaces_folder or any(records.foreign_in(path))):
        what = "to keep it under another name" if kind.replaces_folder else "to write into it"
        raise UserError(f"{shown}: {reason}; choose another folder, or give --overwrite {what}; nothing was written")
    return kind.replaces_folder and not is_ours


def record_outputs(files: Iterable[Path], folder: Path | None = None) -> None:
    """Notes single files as ours, as they are now; in a ``folder`` that the person named, beside it: it stays free."""
    lines: dict[Path, list[str]] = {}
    for file in files:
        place = Path(os.path.abspath(file))
        base, name = (place.parent, place.name) if folder is None else _in_folder(place)
        lines.setdefault(base, []).append(f"{sha256_of(place)}  {name}".replace("\n", "\\n"))
    for base, new in lines.items():
        try:
            # Appended in one piece, so that commands that write side by side lose nothing.
            with open(base / RECORD, "a+", encoding="utf-8", errors="surrogateescape") as stream:
                stream.seek(0)
                known = set(stream.read().split("\n"))
                stream.write("".join(f"{line}\n" for line in new if line not in known))
        except OSError as error:
            # The results are there; only the next command will ask for --overwrite.
            logger.info("%s: cannot note what was written (%s)", base / RECORD, error.strerror)


def write_figures(file: Path | None, figures: Any) -> None:
    """Writes figures as JSON and notes the file as ours; nothing where no file is asked for."""
    if file is not None:
        write_json(file, figures)
        record_outputs([file])


def inputs_of(document: Document) -> tuple[list[Path], list[Path]]:
    """Returns what a configuration makes a command read: the existing paths that it names, and roots of class folders.

    Texts are tried as they stand, below each ``dataset_dir``, and with the suffix of a weight file. The files that it
    was made from (``_BASE_``) are among them. The second list are the folders in which every picture is read.
    """
    texts = list(dict.fromkeys(_texts(document.data)))
    roots = [user_path(value) for key, value in texts if key == "dataset_dir"]
    searched = [user_path(value) for key, value in texts if key == "ImageFolder"]
    found = [document.path, *(Path(place.rpartition(":")[0]) for place in document.lines.values())]
    for _, value in texts:
        path = user_path(value)
        found += [path, *(root / path for root in roots), *(Path(f"{path}{suffix}") for suffix in WEIGHT_SUFFIXES)]
    return [path for path in dict.fromkeys(found) if path.name and os.path.exists(path)], searched


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the texts of a configuration with the last part of their keys, without those that name outputs."""
    if isinstance(value, dict):
        if value.get("name") == "ImageFolder" and isinstance(value.get("image_root"), str):
            yield "ImageFolder", value["image_root"]
        for name, part in value.items():
            if name not in OUTPUT_KEYS:
                yield from _texts(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str) and value:
        yield key, value


def _in_folder(file: Path) -> tuple[Path, str]:
    """Returns where and under which name a file is recorded whose folder was named."""
    return file.parent.parent, f"{file.parent.name}/{file.name}"


def _key(path: str | os.PathLike[str]) -> str:
    """Returns one spelling for all spellings of a place, also on file systems that ignore case."""
    return folded_name(os.path.realpath(path))


Number = tuple[int, int]


def _number(path: str | os.PathLike[str]) -> Number | None:
    """Returns the number on the disk that all links and spellings of a file or folder share, ``None`` without one."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _numbers(paths: Iterable[str | os.PathLike[str]]) -> dict[Number, Any]:
    """Returns what there is of files and folders, by number."""
    return {number: path for path in paths if (number := _number(path)) is not None}


def _folders_around(path: str | os.PathLike[str]) -> Sequence[Path]:
    """Returns the folders in which something lies, or would lie."""
    return Path(os.path.realpath(path)).parents


class _Inputs:
    """What is read, the folders around it, and the folders that are searched, by their numbers on the disk."""

    def __init__(self, reads: Sequence[str | os.PathLike[str]], searched: Sequence[str | os.PathLike[str]]) -> None:
        # Whoever reads what is missing says so.
        reads = [read for read in reads if os.path.exists(read)]
        self.read, self.searched = _numbers(reads), _numbers(searched)
        # There may be a hundred thousand pictures in one folder.
        folders = {os.path.dirname(os.path.abspath(read)): read for read in reads}
        folders |= {os.path.dirname(os.path.realpath(read)): read for read in reads if os.path.islink(read)}
        self.around: dict[Number, Any] = {}
        for folder, read in folders.items():
            self.around |= dict.fromkeys(_numbers([folder, *_folders_around(folder)]), read)

    def refuse(self, shown: str, path: Path, kind: Kind | None, records: _Records) -> None:
        """Raises a UserError if an output is something that is read, holds such a thing or would become one."""
        places = [path]
        if kind is not None and not kind.replaces_folder and not _is_of(path, kind):
            places += [path / name for name in (*kind.marks, *kind.files)]
        written = _numbers(places)
        # What is read would be written onto, or removed with the folder that holds it.
        held = self.around if kind is not None and kind.replaces_folder else {}
        for number in written:
            if same := self.read.get(number, held.get(number)):
                raise UserError(f"{shown}: {same} is read by this command; choose another place to write")
        # A picture or folder would be taken for data by the next command that searches there, and a person's file in a
        # folder that is read is one of the inputs.
        searched = self.searched if kind is not None or path.suffix.lower() in SUFFIXES else {}
        read = self.read if kind is None and written and not records.hold(path) else {}
        for number in _numbers(_folders_around(path)):
            if folder := searched.get(number, read.get(number)):
                raise UserError(f"{shown}: lies in {folder}, which is read, too; choose a place outside")


class _Records:
    """Which files are as our tools left them; each record and each file is read once."""

    def __init__(self) -> None:
        self._records: dict[Path, dict[str, set[str]]] = {}
        self._answers: dict[Path, bool] = {}

    def hold(self, file: Path) -> bool:
        """Tells whether a file is ours and unchanged."""
        place = Path(os.path.abspath(file))
        if place not in self._answers:
            sums = self._sums(place.parent, place.name) | self._sums(*_in_folder(place))
            ordinary = place.is_file() and not place.is_symlink()
            self._answers[place] = bool(sums) and ordinary and sha256_of(place) in sums
        return self._answers[place]

    def foreign_in(self, folder: Path, own: Collection[Path] = ()) -> Iterator[Path]:
        """Gives what lies in a folder and is no output of ours, hidden files and those of the system aside.

        If the folder is to be replaced, ``own`` are the files of its kind, and results of other kinds are foreign too.
        """
        for entry in sorted(folder.iterdir()):
            if is_left_behind(entry.name):
                continue
            if entry.is_dir() and not entry.is_symlink():
                if own or not any(_is_of(entry, kind) for kind in KINDS.values()):
                    yield from self.foreign_in(entry, own)
            elif entry not in own and not self.hold(entry):
                yield entry

    def _sums(self, base: Path, name: str) -> set[str]:
        if base not in self._records:
            found = self._records[base] = {}
            with contextlib.suppress(OSError):
                for line in (base / RECORD).read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
                    checksum, _, written = line.partition("  ")
                    found.setdefault(written, set()).add(checksum)
        return self._records[base].get(name.replace("\n", "\\n"), set())


def _refuse_place(shown: str, path: Path, kind: Kind | None) -> None:
    """Raises a UserError if something of another sort stands there, or the place cannot be written."""
    if kind is None and path.is_dir():
        raise UserError(f"{shown}: is a folder, not a file")
    if kind is None and path.exists() and not path.is_file():
        raise UserError(f"{shown}: is no ordinary file; choose another name")
    if kind is not None and os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{shown}: is a file, not a folder")
    place = Path(os.path.abspath(path))
    above = next(folder for folder in (place, *place.parents) if folder.exists() and (folder != place or kind))
    if not above.is_dir():
        raise UserError(f"{shown}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{shown}: cannot be written ({above}: permission denied); choose another place")


def _is_empty(folder: Path, kind: Kind) -> bool:
    """Tells whether there is nothing that could be lost: hidden files count only where the folder is replaced."""
    if not folder.is_dir():
        return True
    return not any(kind.replaces_folder or not is_left_behind(entry.name) for entry in folder.iterdir())


def _is_of(folder: Path, kind: Kind) -> bool:
    """Tells whether a folder bears a mark of its kind."""
    files = (folder / mark for mark in kind.marks)
    return any(
        file.is_file() and (not kind.text or kind.text in file.read_text(encoding="utf-8", errors="replace"))
        for file in files
    )


def _set_aside(folder: Path) -> None:
    """Gives a folder that is not, or not only, ours another name."""
    place = Path(os.path.abspath(folder))
    kept, number = place.with_name(f"{place.name}_before"), 2
    while os.path.lexists(kept):
        kept, number = place.with_name(f"{place.name}_before_{number}"), number + 1
    os.rename(place, kept)
    logger.warning("%s: holds what no tool of this project wrote; kept as %s", folder, kept)
