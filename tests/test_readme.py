"""What the README and the pages in docs/ name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def test_pictures_and_links_lead_somewhere() -> None:
    targets = [
        (page.parent, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith("http")
    ]
    assert len(targets) > len(PAGES)
    assert [target for folder, target in targets if not (folder / target.split("#")[0]).exists()] == []


def test_anchors_are_headings() -> None:
    def anchors(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    named = [
        (page.parent / target.split("#")[0], target.split("#")[1])
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+\.md#[^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert named
    assert [(page.name, anchor) for page, anchor in named if anchor not in anchors(page)] == []


def test_no_figure_is_left_open() -> None:
    assert re.findall(r"@@\w+@@|TODO|TBD|XXX", README) == []


def test_tools_configurations_and_tests_exist() -> None:
    named = set(re.findall(r"\b(?:tools|configs|tests)/[\w/{},.-]+\.(?:py|yaml|json)", README))
    assert len(named) > 10
    paths = [path for name in named for path in expand(name)]
    assert sorted(path for path in paths if not (ROOT / path).is_file()) == []


def expand(name: str) -> list[str]:
    """Returns what the shell makes of ``a_{b,c}.yaml``."""
    match = re.search(r"\{([^}]+)\}", name)
    if match is None:
        return [name]
    return [name[: match.start()] + part + name[match.end() :] for part in match[1].split(",")]


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", README, re.M))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
