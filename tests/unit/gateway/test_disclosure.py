"""What is told about a job: no folder of the machine, no host; and all else as it is."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from celeriac.datasets.places import place
from celeriac.jobs.folder import JobFolder
from producer.gateway import jobs, results
from producer.gateway.disclosure import Disclosure

ROOTS = ["/srv/in/shop", "/srv/out/shop", "s3://lake/in"]
DISCLOSURE = Disclosure(ROOTS)


def row(**changes: object) -> bytes:
    fields = {"source": "/srv/in/shop/a.csv", "row": 1, "id": None, "code": "item_invalid",
              "message": "no number", "data": "1,x"}  # fmt: skip
    return json.dumps(fields | changes, separators=(",", ":")).encode()


@pytest.mark.parametrize(("said", "shown"), [
    ("/srv/in/shop/2026/a.csv to b.csv (2 files)", "2026/a.csv to b.csv (2 files)"),
    ("s3://lake/in/a.csv", "a.csv"), ("it is in '/srv/out/shop/x', gone", "it is in 'x', gone"),
    ("/srv/in/shop-2/a.csv", "/srv/in/shop-2/a.csv"), ("see /old/srv/in/shop/x", None),
    ("https://example.org/srv/in/shop/x.png", None), ("./srv/in/shop/x", None),
])  # fmt: skip
def test_only_roots_are_left_out_and_only_where_a_path_begins(said: str, shown: str | None) -> None:
    data = json.dumps({"report_error": said}).encode()
    made = DISCLOSURE.of_file(data)
    assert json.loads(made)["report_error"] == (said if shown is None else shown)
    assert len(made) == len(data)


def test_of_nested_roots_the_inner_one_counts() -> None:
    assert Disclosure(["/data", "/data/shop"]).of_file(b"/data/shop/x").rstrip() == b"x"


def test_a_root_is_found_as_a_page_writes_it() -> None:
    assert Disclosure(["/srv/r&d"]).of_file(b"<b>/srv/r&amp;d/x</b>").rstrip() == b"<b>x</b>"


def test_processes_have_numbers_and_no_host() -> None:
    cell = b'<td class="wrap code">%s</td>'
    made = DISCLOSURE.of_file(cell % b"node-7.example:4711" + cell % b"a: b:1 c")
    assert made.rstrip() == cell % b"4711" + cell % b"a: b:1 c"


def test_ids_and_contents_of_rows_stay_as_they_are() -> None:
    lines = [
        row(), row(id="/srv/in/shop/a.png", data="/srv/in/shop/a.png"),
        row(message="/srv/in/shop/b.csv: is damaged", data='","data":"/srv/in/shop/'), b"",
    ]
    made = DISCLOSURE.of_errors(b"\n".join(lines)).split(b"\n")
    assert list(map(len, made)) == list(map(len, lines))
    found = [json.loads(line) for line in made[:-1]]
    assert [one["source"] for one in found] == ["a.csv"] * 3
    assert found[1]["id"] == found[1]["data"] == "/srv/in/shop/a.png"
    assert (found[2]["message"], found[2]["data"]) == (
        "b.csv: is damaged", '","data":"/srv/in/shop/')


def test_lines_are_whole_wherever_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "BLOCK_BYTES", 50)
    path = tmp_path / "part-00000.jsonl"
    path.write_bytes(b"\n".join([row(data="x" * n) for n in (0, 7, 300)]) + b"\n" + row())
    file = results.ResultFile("errors/part-00000.jsonl", "errors", path.stat().st_size)

    async def told() -> bytes:
        return b"".join([one async for one in results._told(file, place(str(path)), DISCLOSURE)])

    assert asyncio.run(told()) == DISCLOSURE.of_errors(path.read_bytes())


def test_why_a_job_failed_names_no_host(tmp_path: Path) -> None:
    said = JobFolder(tmp_path / "out").gone("7").message
    assert f"on host {socket.gethostname()}" in said
    assert jobs._told(said) == (
        "out: the output of job 7 is gone: somebody deleted or moved the folder, or it is not "
        "reached; if it is lost, submit the dataset again"
    )
