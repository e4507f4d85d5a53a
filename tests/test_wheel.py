"""The wheel in environments of its own, outside the repository: which extra brings what.

An environment has the wheel and links to exactly those installed distributions that its metadata ask for, so that no
network is needed and a missing dependency is found.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_COPIED = (".git", ".venv", "build", "out", "dist", "*.egg-info", "__pycache__", ".hypothesis", ".*_cache")
OF_DEVICES = [
    "jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "array_record", "safetensors",
    "flatbuffers",
]  # fmt: skip
SERVER = ["starlette", "uvicorn"]
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from experiments.__main__ import main
for line in COMMANDS:
    print(line, "->", main(line.split()), file=sys.stderr)
"""


def test_commands_without_jax_run_or_name_the_extra(tmp_path):
    """The quick part of the test below: modules are hidden in place of an environment without them."""
    commands = ["--version", "fit --help", "report --help", "train DATA --out RUN", "serve MODEL", "describe DATA"]
    program = WITHOUT.replace("MISSING", repr(OF_DEVICES + SERVER)).replace("COMMANDS", repr(commands))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    codes = [line.rpartition(" -> ")[2] for line in done.stderr.splitlines() if " -> " in line]
    assert codes == ["0", "0", "0", "2", "2", "2"]
    assert 'this needs jax, which is not installed: pip install "sessionrec-jax[cpu]" (or [cuda]' in done.stderr
    assert 'this needs uvicorn, which is not installed: pip install "sessionrec-jax[serve]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_first_import_is_light():
    """Help and version must not wait for numpy."""
    program = "import sys, scaling, experiments.__main__; print({'numpy', 'polars', 'scipy', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder of the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_COPIED))
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def wanted(package: metadata.Distribution, *extras: str) -> dict[str, metadata.Distribution]:
    """Returns the distributions that a package with these extras asks for, and what they ask for in turn."""
    found: dict[str, metadata.Distribution] = {}
    left, seen = [(package, ("", *extras))], set()
    while left:
        asking, with_extras = left.pop()
        for text in asking.requires or ():
            requirement = Requirement(text)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": each}) for each in with_extras):
                continue
            key = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
            if key not in seen:
                seen.add(key)
                is_own = key[0] == "sessionrec-jax"
                next_one = package if is_own else metadata.distribution(requirement.name)
                left.append((next_one, ("", *requirement.extras)))
                if not is_own:
                    found[key[0]] = next_one
    return found


def environment(wheel: Path, folder: Path, *extras: str) -> Path:
    """Makes an environment with the wheel and what these extras ask for; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    for path in wheel.iterdir():
        (site / path.name).symlink_to(path)
    (own,) = metadata.distributions(name="sessionrec-jax", path=[str(wheel)])
    for distribution in wanted(own, *extras).values():
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


def call(python: Path, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-I", "-W", "ignore", "-m", "experiments", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_package_alone_fits_reports_and_plans(wheel, tmp_path):
    python = environment(wheel, tmp_path / "lean")
    found = subprocess.run([python, "-I", "-c", "import jax"], capture_output=True, text=True)
    assert "No module named 'jax'" in found.stderr
    sizes = [(n, d) for n in (1e4, 1e5, 1e6, 1e7) for d in (1e6, 1e7, 1e8, 1e9)]
    rows = [f"{n},{d},{1.7 + 400 / n**0.34 + 400 / d**0.28},{6 * n * d}" for n, d in sizes]
    (tmp_path / "runs.csv").write_text("\n".join(["n,d,loss,c", *rows]) + "\n")
    columns = ("--n", "n", "--d", "d", "--loss", "loss")
    for argv in (
        ("--version",),
        ("--help",),
        ("fit", "runs.csv", *columns, "--law", "chinchilla", "--bootstrap", "40", "--json", "law.json"),
        ("report", "runs.csv", *columns, "--law", "chinchilla", "--bootstrap", "40", "--out", "report.html"),
        ("plan", "--from", "law.json", "--budget", "1e18"),
    ):
        done = call(python, tmp_path, *argv)
        assert done.returncode == 0, (argv, done.stderr)
    done = call(python, tmp_path, "train", "DATA", "--out", "RUN")
    assert done.returncode == 2
    assert 'pip install "sessionrec-jax[cpu]"' in done.stderr


@pytest.mark.slow
def test_the_extra_cpu_trains_recommends_and_exports(wheel, tmp_path):
    python = environment(wheel, tmp_path / "cpu", "cpu")
    log = [f"u{u},i{(7 * u + 3 * d + 5 * i) % 60},{1714555000 + 86400 * d + 60 * u}000,{int(i == d % 4)}"
           for u in range(40) for d in range(6) for i in range(4)]  # fmt: skip
    (tmp_path / "log.csv").write_text("\n".join(["user,item,ts,label", *log]) + "\n")
    columns = ("--user", "user", "--item", "item", "--time", "ts", "--clicked", "label")
    small = ("--model.width", "8", "--data.rows", "8", "--train.epochs", "2")
    for argv in (
        ("prepare", "table", "--exposures", "log.csv", *columns, "--out", "DATA"),
        ("train", "DATA", "--out", "RUN", *small),
        ("recommend", "RUN", "--log-users", "2", "--k", "5"),
        ("export", "RUN", "--to", "MODEL"),
    ):
        done = call(python, tmp_path, *argv)
        assert done.returncode == 0, (argv, done.stderr)
    done = call(python, tmp_path, "serve", "MODEL")
    assert done.returncode == 2
    assert 'pip install "sessionrec-jax[serve]"' in done.stderr
