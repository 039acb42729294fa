"""Names of files as other systems write them, and the files and folders that other systems leave behind.

A list or an annotation file may come from Windows (``train\\a.jpg``, ``C:\\data\\a.jpg``), from a browser
(``a%20b.jpg``), from a system that does not tell ``A.JPG`` from ``a.jpg`` or stores ``é`` as two characters; or
it names absolute paths of another machine. What is really there counts first. A name is respelt only where that leads
to a single file that no other name means, and it is said.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import unquote, urlsplit

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.texts import shown_name

logger = logging.getLogger(__name__)

# Of macOS, Windows, Linux and NAS boxes (Synology, QNAP), in lower case; those that begin with a dot are hidden anyway.
LEFT_BEHIND = frozenset({
    "__macosx", "network trash folder", "temporary items", "icon\r",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
    "lost+found",
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp",
})  # fmt: skip
# Two letters or more: C:/ is a drive.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_DRIVE = re.compile(r"/?[A-Za-z]:")


def is_left_behind(name: str) -> bool:
    """Tells whether a file or folder is hidden or one that systems make for themselves, such as ``__MACOSX``."""
    return name.startswith((".", "~$")) or name.casefold() in LEFT_BEHIND


@cache
def _say_once(words: str) -> None:
    logger.info(words)


def visible_files(folder: Path) -> Iterator[Path]:
    """Gives the files in a folder and its sub-folders, without those that :func:`is_left_behind` names.

    Links to folders are followed, but no folder is searched twice, so links may form circles.
    """
    searched = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        inner = sorted(visible_folders(folders))
        # The walk goes on in the folders that are left in its list.
        folders.clear()
        for name in inner:
            real = os.path.realpath(os.path.join(place, name))
            if real not in searched:
                searched.add(real)
                folders.append(name)
        yield from (Path(place, name) for name in files if not is_left_behind(name))


def visible_folders(names: Sequence[str]) -> list[str]:
    """Returns the names of folders that are not left behind; of those that are and are not hidden each is said once."""
    for name in names:
        if is_left_behind(name) and not name.startswith("."):
            _say_once(f"folders named {name} are skipped everywhere: the operating system makes them")
    return [name for name in names if not is_left_behind(name)]


def class_of_folder(folder: str) -> str:
    """Returns the class that a folder is named after: the same on systems that store accents in another form."""
    return unicodedata.normalize("NFC", shown_name(folder))


def folded_name(name: str) -> str:
    """Returns what is left of a file name without case and the form of its accents."""
    return unicodedata.normalize("NFC", class_of_folder(name).casefold())


def unused_name(name: str, used: set[str]) -> str:
    """Returns a name that differs from those in ``used`` in more than case and accents, and adds it to them: its own,
    else with a number behind its stem."""
    path, number, found = PurePosixPath(name), 1, name
    while folded_name(found) in used:
        number += 1
        found = f"{path.stem}_{number}{path.suffix}"
    used.add(folded_name(found))
    return found


def spellings(name: str) -> dict[str, str]:
    """Returns the paths with ``/`` that a stated name may mean, the most likely first, and how each is to be read."""
    found = {name: "as it stands"}
    path = name
    if _ADDRESS.match(path):
        # file:///data/a.jpg, file:///C:/data/a.jpg, file://server/data/a.jpg, https://host/data/a.jpg
        path = re.sub(r"^/(?=[A-Za-z]:)", "", urlsplit(path).path)
        found.setdefault(path, "as addresses")
    if "\\" in path:
        path = path.replace("\\", "/")
        found.setdefault(path, "with back slashes")
    if "%" in path:
        found.setdefault(unquote(path, errors="surrogateescape").replace("\\", "/"), "with percent signs")
    return found


def user_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path as a person wrote it, with their home folder for ``~``; the ``~name`` of nobody stays as it is."""
    return Path(os.path.expanduser(path))


def meant_path(path: str | os.PathLike[str]) -> Path:
    """Returns the file or folder that a person named, perhaps with back slashes, as an address or with ``~``; itself
    if none is."""
    stated = os.path.expanduser(path)
    found = next((spelt for spelt in spellings(stated) if os.path.exists(spelt)), stated)
    if found != stated:
        _say_once(f"{shown_name(stated)} does not exist; reading {shown_name(found)}")
    return Path(found)


def is_absolute(path: str) -> bool:
    """Tells whether a path with ``/`` begins at the root of a machine or of a drive."""
    return path.startswith("/") or _DRIVE.match(path) is not None


def components(path: str) -> tuple[str, ...]:
    """Returns the components of a path with ``/``, without a drive, ``.`` and what is empty."""
    return tuple(part for part in _DRIVE.sub("", path, count=1).split("/") if part not in ("", "."))


def path_ends(path: str) -> list[str]:
    """Returns a path with ``/``, below whatever it begins at, and its ends: ``a/b/c``, ``b/c`` and ``c``."""
    parts = components(path)
    return ["/".join(parts[cut:]) for cut in range(len(parts))]


def meanings(name: str) -> list[str]:
    """Returns the paths below a folder that a stated name may mean, the most likely first; of an absolute path, which
    may be another machine's, its ends."""
    found = []
    for path in spellings(name):
        ends = path_ends(path)
        found += [path, *(ends if is_absolute(path) else ends[:1])]
    return found


Item = TypeVar("Item")


class Named(Generic[Item]):
    """Things by their names (``names_of``); where none has a very name, those that differ in case or accents only."""

    def __init__(self, items: Iterable[Item], names_of: Callable[[Item], Iterable[str]]) -> None:
        self._exact: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            for name in set(names_of(item)):
                self._exact[name].append(item)

    @cached_property
    def _folded(self) -> dict[str, dict[int, Item]]:
        """The things of each folded name, each once: it may have two names that differ in case only."""
        found: dict[str, dict[int, Item]] = defaultdict(dict)
        for name, items in self._exact.items():
            found[folded_name(name)].update((id(item), item) for item in items)
        return found

    def find(self, *names: str) -> list[Item]:
        """Returns the things of the first of the names that is one."""
        for name in names:
            if found := self._exact.get(name) or list(self._folded.get(folded_name(name), {}).values()):
                return found
        return []


class _Folders:
    """What is in the folders below ``root``, each listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[str, Named[str]] = {}

    def _listed(self, folder: str) -> Named[str]:
        """Returns the names in a folder, which is empty or ends in ``/``."""
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(os.path.join(self.root, folder)))
            except (OSError, ValueError):
                names = []
            self._listings[folder] = Named(names, lambda name: [name])
        return self._listings[folder]

    def has(self, path: str) -> bool:
        """Tells whether a path is there, with these very letters."""
        folder, slash, name = path.rpartition("/")
        return name in self._listed(folder + slash).find(name)

    def alike(self, parts: Sequence[str]) -> list[str]:
        """Returns the paths that differ from the given one in case and accents only, or in nothing."""
        places = [""]
        for part in parts:
            places = [f"{place}{name}/" for place in places for name in self._listed(place).find(part)]
        return [place.rstrip("/") for place in places]


def _readings(path: str, own_end: list[str]) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...] | None]]:
    """Gives the components that a stated path may mean below a folder, how it is read then, and what was taken away."""
    parts, absolute = components(path), is_absolute(path)
    if parts and not absolute:
        yield parts, "in other case or accents", None
    # Of an absolute path any beginning may be another machine's, of another one only what the folder's path ends with.
    for cut in range(len(parts)):
        if absolute or (cut and [folded_name(part) for part in parts[:cut]] == own_end[-cut:]):
            yield parts[cut:], "without the folders of another place", parts[:cut]


def match_names(root: Path, names: Sequence[str], what: str) -> list[str]:
    """Finds the files below a folder that a list or an annotation file names, and logs one line if any was respelt.

    ``what`` is the file that states them, for messages. A name that leads nowhere stays as it is.

    Raises:
        UserError: a name fits several files.
    """
    folders = _Folders(root)
    there = {name: folders.has(name) for name in names}
    if all(there.values()):
        return list(names)
    found: dict[str, tuple[str, str]] = {}
    dropped: dict[str, tuple[str, ...]] = {}
    own_end = [folded_name(part) for part in components(root.resolve().as_posix())]
    for name in (name for name, is_there in there.items() if not is_there):
        if spelt := next((spelt for spelt in spellings(name).items() if folders.has(spelt[0])), None):
            found[name] = spelt
            continue
        for parts, how, beginning in (each for path in spellings(name) for each in _readings(path, own_end)):
            paths = folders.alike(parts)
            if len(paths) > 1:
                near = " and ".join(paths[:3])
                raise UserError(f"{what}: {name} is not in {root}, but {near} are: which one is meant?")
            if paths:
                found[name] = paths[0], how
                if beginning is not None:
                    dropped[name] = beginning
                break

    # One set lies in one place: of two beginnings that contradict each other (/data and /data/train) the rarer is none.
    counts = Counter(dropped.values())
    for name, beginning in dropped.items():
        rivals = [other for other in counts if other != beginning]
        nested = [other for other in rivals if other[: len(beginning)] == beginning[: len(other)]]
        if any(counts[other] >= counts[beginning] for other in nested):
            del found[name]
    # Two names of one file: one of them means another file, which is lost.
    meant = Counter(os.path.normpath(path) for path, _ in found.values())
    meant.update(os.path.normpath(name) for name, is_there in there.items() if is_there)
    found = {name: (path, how) for name, (path, how) in found.items() if meant[os.path.normpath(path)] == 1}
    if found:
        ways = Counter(how for _, how in found.values())
        first, (path, _) = next(iter(found.items()))
        listing = ", ".join(f"{count} {how}" for how, count in ways.most_common())
        example = f"{shown_name(first)}, which is {shown_name(path)}"
        _say_once(f"{what}: names respelt: {listing} (such as {example})")
    return [found[name][0] if name in found else name for name in names]
