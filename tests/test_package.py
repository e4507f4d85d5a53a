"""What is published: the source archive is complete, every package is typed, and the metadata agree with each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOUSES = ("doors", "sessionrec_jax", "scaling", "experiments")
NOT_COPIED = (".git", ".venv", "build", "out", "dist", "*.egg-info", "__pycache__", ".hypothesis", ".*_cache")


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """The names of the files in the source archive of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_COPIED))
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def files_of(*folders: str) -> set[str]:
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return {
        str(path.relative_to(ROOT))
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def test_the_source_archive_can_be_built_and_tested(archived):
    wanted = {"Makefile", "requirements.lock", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    wanted |= {"CONTRIBUTING.md", "SECURITY.md", "LOG.md", ".ci/run"}
    wanted |= files_of(*HOUSES, "tests", "docs", "benchmarks", "docker")
    assert sorted(wanted - archived) == []


@pytest.mark.parametrize("house", HOUSES)
def test_every_package_is_typed(archived, house):
    assert f"{house}/py.typed" in archived


def test_the_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_continuous_integration_only_calls_the_script_of_every_forge():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_an_image_copies_every_package_and_installs_extras_that_exist(name):
    lines = (ROOT / "docker" / f"{name}.Dockerfile").read_text().splitlines()
    assert {line.split()[1] for line in lines if line.startswith("COPY") and len(line.split()) == 3} == set(HOUSES)
    assert {name, "serve"} <= PROJECT["optional-dependencies"].keys()
    assert f'RUN pip install ".[{name},serve]"' in lines
    assert 'ENTRYPOINT ["sessionrec"]' in lines
    assert "has not been built" in lines[0] + lines[1]


def test_contributing_names_files_that_exist():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add something")[2].partition("## What makes")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| a ")]
    assert len(rows) == 7
    for _, file, example in rows:
        folder, name = file.split("`")[1], example.split("`")[1]
        path = ROOT / name if "/" in name else ROOT / Path(folder).parent / name
        assert path.is_file(), path
