"""The house: who may import whom, read off the source; small files; no path of anybody's machine."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sessionrec_jax", "scaling", "experiments")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
MAY_IMPORT = {
    "sessionrec_jax": {"sessionrec_jax"},
    "scaling": {"scaling"},
    "experiments": {"experiments", "sessionrec_jax", "scaling"},
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
# Of sessionrec_jax, beside all of its data/.
NO_JAX = (
    "config",
    "config_rules",
    "config_values",
    "count",
    "errors",
    "histories",
    "metrics",
    "parametrization",
    "progress",
    "runfolder",
    "seen",
    "stopping",
)
MOST_LINES = 400
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt|scratch)/\w")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path: Path) -> set[str]:
    """Modules that a file names in an import, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: imports are absolute here"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def breaches(paths: list[Path], forbidden: Callable[[Path], set[str]]) -> list[str]:
    """Every file that imports a package which is forbidden to it."""
    found = ((path, packages(path) & forbidden(path)) for path in paths)
    return [f"{relative(path)} imports {', '.join(sorted(names))}" for path, names in found if names]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_rooms_import_only_what_they_may():
    assert not breaches(SOURCES, lambda path: {*ROOMS, "tests"} - MAY_IMPORT[room_of(path)])


def test_scaling_knows_no_jax():
    scaling = [path for path in SOURCES if room_of(path) == "scaling"]
    assert not breaches(scaling, lambda _: JAX | {"grain"})


def test_flax_is_known_in_the_model_room_only():
    assert not breaches([path for path in SOURCES if path.parent != ROOT / "sessionrec_jax/model"], lambda _: {"flax"})


def test_data_and_bookkeeping_need_no_jax():
    data = [path for path in SOURCES if path.is_relative_to(ROOT / "sessionrec_jax/data")]
    assert not breaches(data + [ROOT / f"sessionrec_jax/{name}.py" for name in NO_JAX], lambda _: JAX)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_make_no_circle(room):
    """A package's own __init__ is left out: whoever imports a module imports it."""
    inside = {module(path): imported(path) for path in SOURCES if room_of(path) == room}
    inits = {module(path) for path in SOURCES if path.name == "__init__.py"}
    graph = {name: {other for other in names if other in inside} - inits - {name} for name, names in inside.items()}
    in_order = tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(in_order) == set(graph)


def test_files_are_small():
    assert not [relative(path) for path in ALL if path.read_text().count("\n") > MOST_LINES]


def test_files_open_with_what_they_are():
    assert not [relative(path) for path in ALL if not ast.get_docstring(ast.parse(path.read_text()))]


def test_no_file_names_a_place_on_somebodys_machine():
    kinds = {".py", ".md", ".toml", ".json", ".jsonl", ".txt", ".html", ".svg", ".csv", ".yml", ".yaml", ".sh", ""}
    hidden = {".git", ".venv", "out", "build", "__pycache__", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    found = [
        f"{relative(path)}: {match.group()}"
        for path in ROOT.rglob("*")
        if path.is_file() and path.suffix in kinds and path != Path(__file__)
        if not hidden & set(path.relative_to(ROOT).parts)
        for match in MACHINE_PATH.finditer(path.read_text(errors="ignore"))
    ]
    assert not found
