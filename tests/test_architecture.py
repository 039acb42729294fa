"""Checks directions of imports, circles, lazy loading and pinned requirements; ruff forbids the rest."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("ppcls_ext", "classification", "detection", "tools")
# What each room may import of ours, besides itself.
FLOOR = {"ppcls_ext.utils", "ppcls_ext.preprocess"}
MODELS = FLOOR | {"ppcls_ext.arch", "ppcls_ext.plugin"}
ENGINE = MODELS | {"ppcls_ext.weights"}
LIBRARY = ENGINE | {"ppcls_ext", "ppcls_ext.engine", "ppcls_ext.check", "ppcls_ext.runtime", "ppcls_ext.deploy"}
ALLOWED = {
    "ppcls_ext": MODELS,
    "ppcls_ext.utils": set(),
    "ppcls_ext.preprocess": {"ppcls_ext.utils"},
    "ppcls_ext.plugin": MODELS,
    "ppcls_ext.arch": MODELS,
    "ppcls_ext.weights": MODELS,
    "ppcls_ext.engine": ENGINE,
    "ppcls_ext.check": FLOOR,
    "ppcls_ext.runtime": FLOOR,
    "ppcls_ext.deploy": LIBRARY,
    "classification": LIBRARY,
    "detection": LIBRARY,
    "tools": LIBRARY | {"classification", "detection"},
}
# Only inside functions: they take seconds to load, and --help and a wrong configuration need none of them.
NEVER_AT_MODULE_LEVEL = {
    "matplotlib",
    "sklearn",
    "scipy",
    "visualdl",
    "pandas",
    "pycocotools",
    "faster_coco_eval",
    "paddleclas",
    "onnx",
    "openvino",
    "nncf",
}
# These answer configuration errors or serve exported models, and do so without Paddle.
WITHOUT_PADDLE = (
    "ppcls_ext/utils",
    "ppcls_ext/preprocess",
    "ppcls_ext/runtime",
    "ppcls_ext/deploy/serve.py",
    "ppcls_ext/check",
    "classification/check.py",
    "classification/data",
    "detection/prepare",
    "detection/check",
    "detection/synthetic.py",
    "detection/annotations.py",
    "detection/coco.py",
    "detection/geometry.py",
    "detection/configuration",
    "detection/evaluation",
)
PARTS_WITHOUT_PADDLE = ["ppcls_ext", "ppcls_ext.runtime", "ppcls_ext.preprocess", "ppcls_ext.deploy.serve"]
NAMES_OF_OURS = "import ppcls_ext.arch as arch; arch.list_models(), arch.architecture_parameters('EConvNeXt_mini')"


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(node: ast.AST, path: Path) -> list[str]:
    """Absolute names of the modules that one import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    if node.level == 0:
        return [node.module or ""]
    parts = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
    return [".".join([*parts, *filter(None, [node.module])])]


def imports(path: Path, only_at_module_level: bool = False) -> Iterator[tuple[int, str]]:
    """Line and first part of the name of each module that a file imports, or that is named to import_module."""
    nodes = statements_run_on_import(tree_of(path)) if only_at_module_level else ast.walk(tree_of(path))
    for node in nodes:
        for module in imported_modules(node, path):
            yield node.lineno, module.split(".")[0]
        if isinstance(node, ast.Call) and called_name(node) in ("import_module", "__import__") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, argument.value.split(".")[0]


def statements_run_on_import(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those inside functions and under ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def room_of(module: str) -> str:
    """Returns the package of ours that a module belongs to: ``ppcls_ext.arch`` of ``ppcls_ext.arch.layers``."""
    parts = module.split(".")
    if parts[0] != "ppcls_ext":
        return parts[0]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ALLOWED else "ppcls_ext"


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def graph() -> dict[str, set[str]]:
    """Each module of ours with the modules of ours that it imports, in functions too."""
    modules = {module_of(path): path for path in python_files(*LAYERS)}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = set()
        for node in ast.walk(tree_of(path)):
            for imported in imported_modules(node, path):
                names = [f"{imported}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                deeper = [name for name in names if name in modules]
                # ``from package import module`` needs the module, ``from package import name`` the package.
                found |= set(deeper)
                if imported in modules and len(deeper) < len(names or [imported]):
                    found.add(imported)
        edges[module] = found - {module}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Returns the groups of nodes that reach one another."""
    groups = networkx.strongly_connected_components(networkx.DiGraph(edges))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_imports_go_one_way() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, targets in graph().items()
        for imported in sorted(targets)
        if room_of(imported) not in ALLOWED[room_of(module)] | {room_of(module)}
    ]
    assert wrong == []


def test_no_circle_of_files() -> None:
    assert circles(graph()) == []


def test_no_circle_of_packages() -> None:
    packages: dict[str, set[str]] = {}
    for module, targets in graph().items():
        room = room_of(module)
        # The root of ppcls_ext offers what others need (build_model, register), and __main__ runs scripts.
        if room != "ppcls_ext":
            packages.setdefault(room, set()).update(room_of(target) for target in targets)
    for room in packages:
        packages[room] -= {room, "ppcls_ext"}
    assert circles(packages) == []


def test_each_toolkit_has_one_importer() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in python_files(*LAYERS)
        for line, module in imports(path)
        if (module in ("paddleclas", "ppcls") and name_of(path) != "ppcls_ext/plugin.py")
        or (module == "ppdet" and not name_of(path).startswith("detection/"))
    ]
    assert wrong == []


def test_slow_packages_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {module} at module level"
        for path in python_files(*LAYERS)
        for line, module in imports(path, only_at_module_level=True)
        if module in NEVER_AT_MODULE_LEVEL
        or (module == "paddle" and name_of(path).startswith((*WITHOUT_PADDLE, "tools/")))
    ]
    assert wrong == []


def loaded_packages(arguments: list[str]) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded when it leaves; the interpreter itself tells."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    names = re.findall(r"^import time:[^|]*\|[^|]*\|\s*(\S+)$", result.stderr, flags=re.MULTILINE)
    assert "argparse" in names or "numpy" in names or "ppcls_ext" in names, "the interpreter told nothing"
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("tool", python_files("tools"), ids=lambda path: path.stem)
def test_help_loads_nothing_slow(tool: Path) -> None:
    if tool.stem == "__init__":
        return
    loaded = loaded_packages([str(tool), "--help"])
    assert loaded & {"paddle", *NEVER_AT_MODULE_LEVEL} == set()


@pytest.mark.parametrize("part", PARTS_WITHOUT_PADDLE)
def test_part_loads_no_paddle(part: str) -> None:
    assert loaded_packages(["-c", f"import {part}"]) & {"paddle", "pydantic", *NEVER_AT_MODULE_LEVEL} == set()


def test_what_needs_no_toolkit_loads_none() -> None:
    assert loaded_packages(["-c", NAMES_OF_OURS]) & {"paddleclas", "ppcls", "matplotlib"} == set()
    assert loaded_packages(["-c", "import classification.data.operators"]) & {"paddle", "sklearn"} == set()


def requirement_lines(name: str) -> list[str]:
    lines = (line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def package_of(requirement: str) -> str:
    """The name that pip compares: lower case, with one kind of separator."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[@]", requirement, maxsplit=1)[0]).lower()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-deploy.lock"])
def test_lock_files_pin_exactly_and_name_no_place(name: str) -> None:
    pin = re.compile(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; python_version (<|>=) "3\.1[0-3]")?')
    assert [line for line in requirement_lines(name) if not pin.fullmatch(line)] == []
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", ["requirements", "requirements-deploy"])
def test_lock_files_cover_what_is_asked_for(stem: str) -> None:
    from packaging.requirements import Requirement

    pins = [Requirement(line) for line in requirement_lines(f"{stem}.lock")]
    for line in requirement_lines(f"{stem}.txt"):
        wanted = Requirement(line)
        assert wanted.specifier, f"{stem}.txt: {line} has no bound"
        versions = [
            next(iter(pin.specifier)).version
            for pin in pins
            if package_of(pin.name) == package_of(wanted.name) and str(pin.marker) == str(wanted.marker)
        ]
        assert len(versions) == 1, f"{stem}.lock pins {wanted.name} {len(versions)} times"
        assert wanted.specifier.contains(versions[0]), (
            f"{stem}.lock pins {wanted.name} {versions[0]}, asked for: {line}"
        )


def committed_texts() -> Iterator[tuple[str, str]]:
    """Name and text of each committed file that is text; of the whole work tree where git does not answer."""
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=False)
    names = [name for name in listing.stdout.split("\0") if name]
    if listing.returncode != 0:
        names = [name_of(path) for path in python_files(*LAYERS, "tests")]
    for name in names:
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_no_machine_paths() -> None:
    # Folders of one person's or one machine's disk; written apart, so that this file does not name them itself.
    places = re.compile(
        "(?<![A-Za-z0-9_.~-])/(" + "|".join(["home", "root", "work", "Users", "tmp", "opt"]) + ")/[A-Za-z0-9_.-]+"
    )
    wrong = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in committed_texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if places.search(line)
    ]
    assert wrong == []
