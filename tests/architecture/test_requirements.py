"""The pinned requirements: complete, consistent, and what the code imports."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = ("requirements.txt", "requirements-demo.txt", "requirements-dev.txt")
PACKAGES = ("celeriac", "producer", "tasks", "workers", "demo")
NAMED_BY_THE_OWNER = (
    "celery", "kombu", "redis", "torch", "scikit-learn", "pandas", "flower", "prometheus-client",
)


def read(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_and_installed(name: str) -> None:
    for requirement in read(name).values():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), str(requirement)
        installed = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(installed), f"{requirement}, found {installed}"


def test_the_full_installation_names_its_packages() -> None:
    assert set(NAMED_BY_THE_OWNER) <= set(read("requirements.txt"))


def needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in extras | {""}]
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            yield requirement


def test_what_they_bring_is_pinned_too() -> None:
    pinned = read("requirements.txt")
    missing = {
        f"{need.name} (for {name})"
        for name, requirement in pinned.items()
        for need in needs(name, requirement.extras)
        if canonicalize_name(need.name) not in pinned
        and not need.name.startswith(("nvidia-", "cuda-", "triton"))  # a GPU build brings its own
    }
    assert missing == set()


def test_the_pins_satisfy_the_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [text for texts in project["optional-dependencies"].values() for text in texts]
    pinned = read("requirements.txt")
    for text in [*project["dependencies"], *optional]:
        wanted = Requirement(text)
        pin = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("==")), text


def test_a_gateway_by_itself_reads_what_jobs_have_written() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras["datasets"]) <= set(extras["gateway"])


def imported_modules() -> set[str]:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {*PACKAGES, "celeryconfig"}


def test_every_import_is_a_requirement() -> None:
    owners = importlib.metadata.packages_distributions()
    pinned = set(read("requirements.txt")) | set(read("requirements-demo.txt"))
    unpinned = {
        module
        for module in imported_modules()
        if not {canonicalize_name(owner) for owner in owners.get(module, [])} & pinned
    }
    assert unpinned == set()
