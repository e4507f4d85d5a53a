"""Tests the layout: imports follow CONTRIBUTING's map, files are small, and no text has a path of a machine."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSES = ("doors", "sessionrec_jax", "scaling", "experiments")
SOURCES = sorted(path for house in HOUSES for path in (ROOT / house).rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
KNOW_NO_JAX = (
    "doors",
    "scaling",
    "sessionrec_jax.errors",
    "sessionrec_jax.config",
    "sessionrec_jax.data",
    "sessionrec_jax.runfolder",
)
KNOWS_JAX = "sessionrec_jax.data.synthetic.device"  # the process inside the jitted step; no other file of data reads it
MOST_LINES = 400
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt|scratch)/\w")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(path: Path) -> set[str]:
    """Returns the modules that a file imports, at its top or inside a function."""
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
    """Lists the files that import a package which is forbidden to them."""
    found = ((path, packages(path) & forbidden(path)) for path in paths)
    return [f"{relative(path)} imports {', '.join(sorted(names))}" for path, names in found if names]


def house_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def rooms_on_the_map() -> list[str]:
    """Returns the rooms (modules and packages) in the order of CONTRIBUTING's map. A house is a line without indent."""
    block = (ROOT / "CONTRIBUTING.md").read_text().partition("## Find your way")[2].split("```")[1]
    rooms, house = [], ""
    for line in block.splitlines():
        path, _, _ = line.strip().partition(" ")
        name = path.removesuffix("/").removesuffix(".py").replace("/", ".")
        if not line.startswith(" "):
            house = name
        elif house in HOUSES:
            rooms.append(f"{house}.{name}")
    return rooms


ORDER = rooms_on_the_map()


def room_of(name: str) -> str:
    """Returns the room of a module: the longest entry of the map that contains it, or else its house."""
    found = [room for room in ORDER if name == room or name.startswith(f"{room}.")]
    return max(found, key=len, default=name.partition(".")[0])


def test_the_map_and_the_tree_agree():
    """Every room on CONTRIBUTING's map exists, and every package and module is in a room of the map."""
    paths = [ROOT / room.replace(".", "/") for room in ORDER]
    missing = [relative(path) for path in paths if not (path.is_dir() or path.with_suffix(".py").is_file())]
    assert not missing
    doors = ("__init__.py", "__main__.py")
    homeless = [relative(path) for path in SOURCES if room_of(module(path)) in HOUSES and path.name not in doors]
    assert not homeless


def test_rooms_import_only_rooms_above_them_on_the_map():
    floor = {room: number for number, room in enumerate(ORDER)} | {house: len(ORDER) for house in HOUSES}
    wrong = []
    for path in SOURCES:
        here = room_of(module(path))
        for name in imported(path):
            there = room_of(name)
            same_house = name.partition(".")[0] == house_of(path)
            is_module = there != name.partition(".")[0] or name in HOUSES
            if same_house and is_module and there != here and floor[there] > floor[here]:
                wrong.append(f"{relative(path)} ({here}) imports {name} ({there})")
    assert not wrong


def test_houses_import_only_what_they_may():
    others = {
        "doors": {"experiments", "sessionrec_jax", "scaling"},
        "sessionrec_jax": {"experiments", "scaling"},
        "scaling": {"experiments", "sessionrec_jax"},
    }
    assert not breaches(SOURCES, lambda path: {"tests"} | others.get(house_of(path), set()))


def test_flax_is_known_in_the_model_room_only():
    outside = [path for path in SOURCES if room_of(module(path)) != "sessionrec_jax.model"]
    assert not breaches(outside, lambda _: {"flax"})


def test_data_bookkeeping_and_fits_need_no_jax():
    bookkeeping = [path for path in SOURCES if module(path).startswith(KNOW_NO_JAX) and module(path) != KNOWS_JAX]
    assert not breaches(bookkeeping, lambda _: JAX)
    assert not breaches([path for path in SOURCES if house_of(path) == "scaling"], lambda _: {"grain"})


def test_importing_the_model_loads_no_data_library():
    heavy = ("tensorflow_datasets", "grain", "polars", "altair")
    program = f"import sys, sessionrec_jax.model.sessionrec; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("house", HOUSES)
def test_imports_make_no_circle(house):
    """Checks all modules except each package's __init__, which every import of a module in it imports too."""
    inside = {module(path): imported(path) for path in SOURCES if house_of(path) == house}
    inits = {module(path) for path in SOURCES if path.name == "__init__.py"}
    graph = {name: {other for other in names if other in inside} - inits - {name} for name, names in inside.items()}
    in_order = tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(in_order) == set(graph)


def test_files_are_small():
    assert not [relative(path) for path in ALL if path.read_text().count("\n") > MOST_LINES]


def test_every_file_has_a_docstring():
    assert not [relative(path) for path in ALL if not ast.get_docstring(ast.parse(path.read_text()))]


def test_no_file_names_a_path_of_a_machine():
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
