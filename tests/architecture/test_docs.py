"""What the documents say of files, commands, settings and figures is there, and is found."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from celeriac.settings import Settings
from producer.cli.main import build

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
GUIDES = [
    ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "templates" / "application" / "README.md"
]
PAGES = [*GUIDES, ROOT / "CHANGELOG.md", DOCS / "decisions" / "README.md", *DECISIONS]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
OPTION = re.compile(r"--[a-z][a-z-]*")
COMMAND = re.compile(
    r"(?:^(?:\$ |\S*\.venv/bin/)?|`)celeriac ([a-z-]+(?: [^`|#;\n]*)?)", re.MULTILINE
)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    words = LINK.sub(r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def links(page: Path) -> list[str]:
    return [found[1] for found in LINK.findall(prose(page)) if "://" not in found[1]]


def test_every_link_leads_somewhere() -> None:
    dead = []
    for page in PAGES:
        for link in links(page):
            name, _, place = link.partition("#")
            target = page.parent / name if name else page
            headings = re.findall(r"^#+ (.*)$", prose(target), re.M) if place else []
            if not target.exists() or (place and place not in map(anchor, headings)):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert not dead


def test_every_page_is_in_the_index_once() -> None:
    found = [link for link in links(DOCS / "README.md") if not {"/", "#"} & set(link)]
    assert sorted(found) == sorted(page.name for page in DOCS.glob("*.md") if page.stem != "README")


def test_every_page_says_for_whom_it_is() -> None:
    pages = [page for page in DOCS.glob("*.md") if page.stem != "README"]
    assert [page.name for page in pages if not re.match(
        r"# .+\n\n\*For .+\.\*\n\n", page.read_text(encoding="utf-8")
    )] == []


def test_every_decision_is_in_the_index_once_by_its_title() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\* \[(\d{3})\]\(([\w-]+\.md)\) (.*)$", index, re.M)
    titles = [page.read_text(encoding="utf-8").partition("\n")[0] for page in DECISIONS]
    assert sorted(f"# {number}: {title}" for number, _, title in found) == sorted(titles), (
        "docs/decisions/README.md has one line for each decision: * [NNN](NNN-name.md) Its title"
    )
    assert sorted(name for _, name, _ in found) == [page.name for page in DECISIONS]


@pytest.fixture(scope="module")
def program() -> Any:
    return get_command(build([]))


def named(program: Any, words: list[str]) -> Any:
    """The command that ``words`` begin with, or None if there is none."""
    command = program
    for word in words:
        inner = getattr(command, "commands", None)
        if not inner or not re.fullmatch("[a-z-]+", word):
            break
        if word not in inner:
            return None
        command = inner[word]
    return command


def test_every_command_and_option_is_there(program: Any) -> None:
    wrong = []
    for page in GUIDES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for found in COMMAND.findall(text):
            command = named(program, found.split())
            known = {"--help"} | {
                name for option in command.params for name in (*option.opts, *option.secondary_opts)
            } if command else set()
            wrong += [
                f"{page.name}: celeriac {found}: {option}"
                for option in OPTION.findall(found) if option not in known
            ] if command else [f"{page.name}: celeriac {found}"]
    assert not wrong


def test_every_setting_is_there() -> None:
    wrong = []
    for page in GUIDES:
        text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
        for section, name in re.findall(r"`\[([a-z]+)\] ([a-z_0-9]+)", text):
            kind: Any = Settings.model_fields[section].annotation
            if issubclass(kind, BaseModel) and name not in kind.model_fields:
                wrong.append(f"{page.name}: [{section}] {name}")
    assert not wrong


def test_every_key_in_redis_has_an_owner() -> None:
    table = (DOCS / "architecture.md").read_text(encoding="utf-8")
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for half in ("celeriac", "producer", "tasks", "workers")
        for file in (ROOT / half).rglob("*.py")
    )
    keys = {key.rstrip(":") for key in re.findall(r"\"(celeriac:[a-z_:]+)", code)}
    assert len(keys) > 50
    assert [key for key in sorted(keys) if key not in table] == []


def test_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    """Of three digits and more, rounded or not; shorter ones are found anywhere."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text[text.index("## How fast") :]
    part = part[: part.index("\n## ", 3)]
    measured = {float(found.replace(",", "")) for found in _numbers(DOCS / "performance.md")}
    for figure in re.findall(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+\.\d+)", part):
        digits = len(figure.partition(".")[2])
        wanted = float(figure.replace(",", ""))
        if len(figure.replace(",", "").replace(".", "").lstrip("0")) > 2:
            assert any(round(one, digits) == wanted for one in measured), figure


def _numbers(page: Path) -> list[str]:
    return re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?", page.read_text("utf-8"))


PUBLIC = (
    "producer/client.py", "producer/aio.py", "producer/handles.py", "producer/jobs.py",
    "producer/feedback.py", "producer/statistics.py", "producer/testing.py", "producer/advice.py",
    "producer/applications/reviews.py", "producer/applications/moderation/moderator.py",
    "producer/applications/moderation/archive.py", "producer/applications/moderation/desk.py",
    "producer/applications/sensors/client.py", "producer/applications/sensors/views.py",
    "celeriac/errors.py", "celeriac/release/registering.py",
    "celeriac/release/promotion.py", "celeriac/release/checking.py",
    "celeriac/registry/store.py", "celeriac/registry/manifest.py",
    "celeriac/optimize/optimising.py", "celeriac/advisor/advice.py",
    "celeriac/advisor/requirement.py",
)
"""What the pages have people import, and what they get from it."""


def _undocumented(node: ast.AST, name: str) -> Iterator[str]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marks = {ast.unparse(mark) for mark in inner.decorator_list}
            if inner.name.startswith("_") or "overload" in marks:
                continue
            if not ast.get_docstring(inner):
                yield f"{name}: {inner.name}"
            if isinstance(inner, ast.ClassDef):
                yield from _undocumented(inner, f"{name}: {inner.name}")


def test_every_public_name_says_what_it_is() -> None:
    assert not [
        found for name in PUBLIC
        for found in _undocumented(ast.parse((ROOT / name).read_text(encoding="utf-8")), name)
    ]
