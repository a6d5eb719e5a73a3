"""Records: written before they are needed, found by their id, gone in time."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.applications.moderation import audit
from celeriac.applications.moderation.audit import AuditLog, Entry, Human
from celeriac.applications.moderation.decision import Post, Reason, digests_of, verdict_of
from celeriac.applications.moderation.policy import Policy, read_policy

NOW = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
POLICY = read_policy(None)
SECRET = "words that nobody may keep"


def written(log: AuditLog, count: int = 1, now: datetime = NOW, tenant: str = "shop") -> list[str]:
    post = Post(text=SECRET, images=(b"a picture",), id="post-7")
    reason = Reason(kind="block_list", action="block", part="text", told="buy followers")
    verdict = verdict_of([reason], (), POLICY)
    records = log.write([Entry(verdict, digests_of(post), post.id, tenant)] * count, now)
    return [record.id for record in records]


def test_a_record_is_found_by_its_id(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    ids = written(log, 12)
    assert len(set(ids)) == 12
    record, humans = audit.find(tmp_path, ids[1], "shop")  # not the twelfth, whose id begins alike
    assert record.id == ids[1]
    assert (record.decision, record.policy, record.post) == ("block", "example@1", "post-7")
    assert record.policy_digest == POLICY.digest
    assert record.digests.keys() == {"text", "images[0]"}
    assert humans == []


def test_no_content_is_on_disk(tmp_path: Path) -> None:
    written(AuditLog(tmp_path))
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(SECRET.encode() in data or b"a picture" in data for data in files)


def test_nobody_else_finds_it(tmp_path: Path) -> None:
    (found,) = written(AuditLog(tmp_path))
    for wanted, tenant in ((found, "other"), ("20261125-0123456789ab-1", "shop")):
        with pytest.raises(errors.PredictionNotFound):
            audit.find(tmp_path, wanted, tenant)
    for wrong in ("", "7", "../../etc/passwd", "20261125-0123456789ab-1/..", "x" * 500):
        with pytest.raises(errors.RequestError, match="is no id of a decision"):
            audit.find(tmp_path, wrong, "shop")


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    first, second = written(log, 2)
    (path,) = tmp_path.glob("audit/*/*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40])
    assert audit.find(tmp_path, first)[0].id == first
    with pytest.raises(errors.PredictionNotFound):
        audit.find(tmp_path, second)


def test_what_people_say_joins_the_record(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    one, other = written(log, 2)
    human = Human(id=one, at="2026-11-26T08:00:00+00:00", reviewed="allow", by="anna")
    audit.add_review(tmp_path, human)
    assert audit.find(tmp_path, one)[1] == [human]
    assert audit.find(tmp_path, other)[1] == []


def test_a_new_day_or_size_begins_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path)
    ids = written(log) + written(log, now=NOW.replace(day=26))
    monkeypatch.setattr(audit, "MOST_FILE_BYTES", 10)
    ids += written(log, now=NOW.replace(day=26))
    assert len({found.rpartition("-")[0] for found in ids}) == 3
    assert [audit.find(tmp_path, found)[0].id for found in ids] == ids
    log.close()
    log.close()


def test_a_child_writes_its_own_file(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    (before,) = written(log)
    child = os.fork()
    if child == 0:
        try:
            written(log)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    (after,) = written(log)
    assert before.rpartition("-")[0] == after.rpartition("-")[0]
    assert len(list(tmp_path.glob("audit/*/*.jsonl"))) == 2


def test_a_settled_review_stays_settled(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    human = Human(id="20261125-0123456789ab-1", at="", reviewed="allow", by="anna")
    with pytest.raises(errors.StorageError, match="is settled all the same"):
        audit.add_review(tmp_path, human)


def test_what_cannot_be_recorded_is_not_decided(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    with pytest.raises(errors.StorageError, match="nothing was decided"):
        written(AuditLog(tmp_path))


@pytest.mark.parametrize("full", [True, False])
def test_a_full_disk_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    log = AuditLog(tmp_path)
    written(log)
    real = os.write
    if full:
        def fails(file: int, data: memoryview) -> int:
            raise OSError(28, "No space left on device")
    else:
        def fails(file: int, data: memoryview) -> int:
            return real(file, data[:10])
    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "write", fails)
        if full:
            with pytest.raises(errors.StorageError, match="No space left"):
                written(log)
        else:
            assert audit.find(tmp_path, written(log)[0])
    assert audit.find(tmp_path, written(log)[0])


def test_a_policy_from_before_a_field_was_known_goes_on_until_it_is_given(tmp_path: Path) -> None:
    AuditLog(tmp_path).keep(POLICY)
    (path,) = tmp_path.glob("policies/*/1.json")
    path.write_text(POLICY.model_dump_json(exclude={"unjudged"}))
    AuditLog(tmp_path).keep(POLICY)
    with pytest.raises(errors.Conflict, match=r"\(unjudged\): raise .* version = 2;"):
        AuditLog(tmp_path).keep(
            Policy.model_validate({**POLICY.model_dump(), "unjudged": "allow"})
        )


def test_a_version_of_a_policy_means_one_thing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.keep(POLICY)
    log.keep(POLICY)
    AuditLog(tmp_path).keep(POLICY)
    assert audit.kept_policy(tmp_path, "example@1") == POLICY
    assert audit.kept_policy(tmp_path, "example@2") is None
    other = Policy.model_validate({**POLICY.model_dump(), "piece_chars": 100})
    with pytest.raises(errors.Conflict, match=r"other content \(piece_chars\)"):
        log.keep(other)
    log.keep(Policy.model_validate({**other.model_dump(), "version": 2}))
    (tmp_path / "policies" / "example" / "2.json").write_text("{")
    with pytest.raises(errors.StorageError, match="is damaged"):
        audit.kept_policy(tmp_path, "example@2")


def test_old_days_go(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    old, young = written(log)[0], written(log, now=NOW.replace(day=28))[0]
    assert audit.expire(tmp_path, date(2026, 12, 1), days=4) == ["20261125"]
    assert audit.expire(tmp_path, date(2026, 12, 1), days=4) == []
    assert audit.find(tmp_path, young)
    with pytest.raises(errors.PredictionNotFound):
        audit.find(tmp_path, old)
    assert audit.expire(tmp_path / "none", date(2026, 12, 1), days=4) == []
