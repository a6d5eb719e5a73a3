"""Archives: read as they come, decided row by row, and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celeriac import errors
from celeriac.applications.moderation import archive
from celeriac.applications.moderation.archive import (
    CHANGES,
    DECISIONS,
    Columns,
    DecisionFile,
    QuestionDigest,
    QuestionFile,
    Row,
    Summary,
    compare,
    differences,
    read_rows,
    read_summary,
)
from celeriac.applications.moderation.decision import Question, Reason, verdict_of
from celeriac.applications.moderation.labels import write_labels
from celeriac.applications.moderation.policy import read_policy
from producer.applications.moderation import archive as runs

POLICY = read_policy(None)
TEXTS = ["first", 'with "quotes", commas', "two\nlines", "", "\U0001f600 caf\u00e9"]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"posts{suffix}"
    ids = [f"p{number}" for number in range(len(TEXTS))]
    if suffix == ".csv":
        rows = [f'{one},"{text.replace(chr(34), chr(34) * 2)}"' for one, text in
                zip(ids, TEXTS, strict=True)]
        path.write_text("\n".join(["id,text", *rows, ""]), encoding="utf-8")
    elif suffix == ".jsonl":
        lines = [json.dumps({"id": one, "text": text}) for one, text in
                 zip(ids, TEXTS, strict=True)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.table({"other": ids, "id": ids, "text": TEXTS}), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_form_of_file_gives_the_same(tmp_path: Path, suffix: str) -> None:
    rows = list(read_rows(written(tmp_path, suffix), Columns(id="id"), POLICY))
    assert [row.id for row in rows] == ["p0", "p1", "p2", "p3", "p4"]
    found = [[q.item for q in row.asked.questions] if row.asked else None for row in rows]
    assert found == [[text] if text else [] for text in TEXTS]
    numbered = read_rows(written(tmp_path, suffix), Columns(), POLICY)
    assert [row.id for row in numbered] == ["1", "2", "3", "4", "5"]


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path: Path) -> None:
    """Arrow takes the type of a column from the first megabyte."""
    path = tmp_path / "posts.csv"
    rows = [f"p{number},7,{'word ' * 100}" for number in range(3_000)]
    path.write_text("\n".join(["id,age,text", *rows, "last,unknown,hi", ""]), encoding="utf-8")
    *_, last = read_rows(path, Columns(id="id"), POLICY)
    assert (last.id, last.error) == ("last", "")


def test_texts_that_look_like_dates_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"id": "2026-11-24", "text": "1999-12-31", "images": ["2026-01-01"], "n": 1}')
    (tmp_path / "2026-01-01").write_bytes(b"a cat")
    (row,) = read_rows(path, Columns(id="id", images="images"), POLICY)
    assert row.id == "2026-11-24"
    assert row.asked is not None
    assert [q.item for q in row.asked.questions] == ["1999-12-31", b"a cat"]


def test_a_column_of_json_lines_may_have_numbers_here_and_texts_there(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text(
        '\ufeff{"id": 18446744073709551615, "text": "hi", "more": 1}\r\n\n'
        '{"id": "p2", "text": 7, "more": {"a": [null]}}\n{"id": "\\ud83d", "text": "\\ud83d"}',
        encoding="utf-8", newline="",
    )
    first, second, third = read_rows(path, Columns(id="id"), POLICY)
    assert (first.id, second.id, third.id) == ("18446744073709551615", "p2", "?")
    assert second.asked is not None
    assert [q.item for q in second.asked.questions] == ["7"]
    assert "half of a character" in third.error


def test_images_lie_beside_the_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "in" / "cat.png").write_bytes(b"a cat")
    path = tmp_path / "in" / "posts.jsonl"
    rows: list[dict[str, Any]] = [
        {"text": "a", "images": "cat.png | gone.png"}, {"text": "a", "images": "../secret.png"},
        {"text": None, "images": ""},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second, third = read_rows(path, Columns(images="images"), POLICY)
    assert first.asked is not None
    assert [q.item for q in first.asked.questions] == ["a", b"a cat", b""]
    assert (second.asked, "does not lie beside" in second.error) == (None, True)
    assert third.asked is not None
    assert third.asked.found[0].kind == "empty"
    path.write_text(json.dumps({"text": "a", "images": "cat\0.png"}))
    (odd,) = read_rows(path, Columns(images="images"), POLICY)
    assert odd.asked is not None
    assert odd.asked.questions[-1].item == b""
    path.write_text(json.dumps({"text": "a", "images": 7}))
    (odd,) = read_rows(path, Columns(images="images"), POLICY)
    assert odd.error == "images are paths, not int"
    path.write_text("\n".join(map(json.dumps, rows)))
    only = list(read_rows(path, Columns(text=None, images="images"), POLICY))
    assert "neither" in only[2].error


@pytest.mark.parametrize(
    ("content", "name", "columns", "told"),
    [
        ("id,text\n1,a\n", "a.csv", Columns(text="body"), "no column 'body'; it has id, text"),
        ("id,text\n1,a\n", "a.txt", Columns(), "an archive is a .csv, .jsonl or .parquet file"),
        ("id,text\n1,a,3\n", "a.csv", Columns(), "a.csv cannot be read"),
        ("{", "a.jsonl", Columns(), "a.jsonl cannot be read"),
        ("\nnull\n{}\n", "a.jsonl", Columns(), "a.jsonl cannot be read: row 1 is not an object"),
        ("no parquet", "a.parquet", Columns(), "a.parquet cannot be read"),
        ("id,text\n,a\n", "a.csv", Columns(id="id"), "row 1 of a.csv has no id"),
        ("id,text,text\n1,a,b\n", "a.csv", Columns(), "a.csv has the column 'text' twice"),
        ('{"id": 1}\n{"body": 3}', "a.jsonl", Columns(), "no column 'text'; it has id, body"),
        ('{"text": 1, "text": 2}', "a.jsonl", Columns(), "row 1: a name comes twice"),
        ("[" * 100_000, "a.jsonl", Columns(), "a.jsonl cannot be read: row 1"),
        ('{"id": 1e19, "text": "a"}', "a.jsonl", Columns(id="id"),
         "row 1 of a.jsonl: id is a number that is not read exactly"),
    ],
)
def test_what_is_no_archive(
    tmp_path: Path, content: str, name: str, columns: Columns, told: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(errors.DatasetError) as raised:
        list(read_rows(tmp_path / name, columns, POLICY))
    assert told in raised.value.message


def test_a_missing_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.UnreadableFile):
        list(read_rows(tmp_path / "none.csv", Columns(), POLICY))
    with pytest.raises(errors.RequestError, match="name the column"):
        list(read_rows(tmp_path / "none.csv", Columns(text=None), POLICY))


def test_questions_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ROWS_AT_ONCE", 3)

    def digest(items: list[Any], column: str, name: str) -> str:
        file = QuestionFile(tmp_path / "new" / name, column)
        for item in items:
            file.add(Question("model", item, "text"))
        assert file.count == len(items)
        return file.close()

    texts = [f"text {number}" for number in range(8)] + ["lone \ud800"]
    one = digest(texts, "text", "a.parquet")
    found = pq.read_table(tmp_path / "new" / "a.parquet")["text"].to_pylist()
    assert found == [*texts[:8], "lone ?"]
    assert one == digest(texts, "text", "b.parquet") != digest(texts[1:], "text", "c.parquet")
    assert digest([b"x", b"y"], "image", "d.parquet") != digest([b"xy", b""], "image", "e.parquet")


def run(folder: Path, decisions: dict[str, str | None]) -> Path:
    folder.mkdir()
    file = DecisionFile(folder / DECISIONS)
    for one, decision in decisions.items():
        row = Row(id=one, asked=None, error="" if decision else "too long")
        reason: Any = Reason(kind="block_list", action=decision or "allow")
        file.add(row, verdict_of([reason], (), POLICY) if decision else None)
    file.close()
    return folder


def test_changes_are_counted(tmp_path: Path) -> None:
    before = run(
        tmp_path / "a", {"1": "allow", "2": "allow", "3": "block", "4": None, "6": "allow"}
    )
    now = run(tmp_path / "b", {"2": "block", "1": "allow", "3": None, "4": None, "5": "review"})
    assert compare(now, before) == ({"allow -> block": 1, "block -> failed": 1}, 1, 1)
    table = pq.read_table(now / CHANGES).to_pylist()
    assert [(row["id"], row["decision_before"], row["decision"]) for row in table] == [
        ("2", "allow", "block"), ("3", "block", None),
    ]


def test_an_id_means_one_post(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path / DECISIONS)
    file.add(Row(id="7", asked=None), None)
    with pytest.raises(errors.DatasetError, match="'7' comes twice"):
        file.add(Row(id="7", asked=None), None)
    file.close()


def test_differences_name_policy_and_models() -> None:
    before = Summary(
        source="a", rows=1, failed=0, policy="house@1", policy_digest="1", asked={}, reused=(),
        models={"words": "words@1", "old": "old@1"}, decisions={},
    )
    now = {"policy": "house@2", "policy_digest": "2",
           "models": {"words": "words@2", "old": "old@1"}}
    assert differences(now, before) == ("policy house@1 -> house@2", "model words@1 -> words@2")


def test_a_version_that_took_the_number_of_another_is_asked_again(tmp_path: Path) -> None:
    file = QuestionFile(tmp_path / "words.parquet", "text")
    file.add(Question("words", "hello", "text"))
    asked = {"words": (file, file.close())}
    earlier = Summary(
        source="a.csv", rows=1, failed=0, policy="house@1", policy_digest="x",
        models={"words": "words@1"}, asked={"words": asked["words"][1]}, reused=(), decisions={},
        registered={"words": "2026-11-25T09:00:00+00:00"},
    )
    for registered, reused in (("2026-11-25T09:00:00+00:00", {"words"}), ("2026-11-26", set())):
        found = runs._reusable({"words": "words@1"}, {"words": registered}, asked, earlier)
        assert found == reused
    now = {"policy_digest": "x", "policy": "house@1", "models": {"words": "words@1"},
           "registered": {"words": "2026-11-26"}}
    assert differences(now, earlier) == ("model words@1, registered anew",)


def test_half_a_run_is_none(tmp_path: Path) -> None:
    with pytest.raises(errors.DatasetError, match="is not the output"):
        read_summary(tmp_path)


def test_labels_are_written_whole_or_not(tmp_path: Path) -> None:
    with pytest.raises(errors.RequestError, match="labels are written as"):
        write_labels(tmp_path / "labels.txt", [])
    for suffix in (".csv", ".jsonl", ".parquet"):
        write_labels(tmp_path / "new" / f"labels{suffix}", [])
    assert len(list((tmp_path / "new").iterdir())) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError):
        write_labels(tmp_path / "file" / "labels.csv", [])


def test_what_is_given_up_is_removed_once_nobody_writes_there(tmp_path: Path) -> None:
    work = tmp_path / "work"

    class Job:
        """A chunk that is under way at a cancellation is written all the same."""

        def cancel(self) -> None:
            assert work.exists()

        def wait(self, timeout_s: float) -> None:
            assert timeout_s > 0
            (work / "0").mkdir(parents=True)

    class Lost(Job):
        def wait(self, timeout_s: float) -> None:
            raise errors.DeadlineExceeded("it hangs")

    work.mkdir()
    jobs: list[Any] = [Lost(), Job()]
    runs._give_up(jobs, work)
    assert not work.exists()


@pytest.mark.parametrize("scored", [1, 2, 3])
def test_an_archive_that_changed_meanwhile_is_not_decided(tmp_path: Path, scored: int) -> None:
    source = tmp_path / "posts.csv"
    source.write_text("text\nhello\ngoodbye\n")
    rows = {"prediction": [1] * scored, "probability": [0.1] * scored, "error": [None] * scored}
    (tmp_path / "scores").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "scores" / "profanity@1.parquet")
    asked = QuestionDigest()
    for text in ("hello", "goodbye"):
        asked.add(text)
    given = Columns(), {"profanity": ("profanity@1", asked.hex())}
    if scored == 2:
        found = runs._decide(source, tmp_path, POLICY, *given)
        assert found.counts == {"allow": 2}
        source.write_text("text\nhello\ngood-bye\n")  # as many rows, other words
    with pytest.raises(errors.DatasetError, match="has changed while it was scored"):
        runs._decide(source, tmp_path, POLICY, *given)
