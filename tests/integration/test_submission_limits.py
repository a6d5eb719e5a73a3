"""How many submissions may be open and known: of all, and of one tenant."""

from __future__ import annotations

import pytest
import redis

from celeriac import errors
from celeriac.submissions.ledger import (
    LONGEST_RETRY_S,
    Limits,
    Submission,
    SubmissionLedger,
    retry_after_s,
)

SHARED = Limits(open=6, open_bytes=600, known=1_000, tenant_share=0.5)


def enter(
    client: redis.Redis, tenant: str, id: str, limits: Limits = SHARED, item: bytes = b"1"
) -> None:
    SubmissionLedger(client).submit(Submission(
        tenant=tenant, id=id, model="m", queue="q", item=item, digest="d", expires_s=600, kept_s=9,
    ), limits, b"call")


def refused(
    client: redis.Redis, tenant: str, limits: Limits = SHARED, item: bytes = b"1"
) -> errors.Overloaded:
    with pytest.raises(errors.Overloaded) as caught:
        enter(client, tenant, "one-more", limits, item)
    return caught.value


def test_one_tenant_leaves_room_for_others(redis_client: redis.Redis) -> None:
    for number in range(3):
        enter(redis_client, "a", f"p{number}")
    assert "at most 3 and 300 bytes for one tenant" in refused(redis_client, "a").message
    enter(redis_client, "a", "p0")  # what is there is not refused
    for number in range(3):
        enter(redis_client, "b", f"p{number}")
    assert "at most 6 and 600 bytes (" in refused(redis_client, "c").message
    SubmissionLedger(redis_client).cancel("b", "p1")
    assert "for one tenant" in refused(redis_client, "a").message
    enter(redis_client, "c", "p0")


def test_bytes_and_known_have_shares_too(redis_client: redis.Redis) -> None:
    enter(redis_client, "a", "large", item=b"x" * 200)
    assert "for one tenant" in refused(redis_client, "a", item=b"x" * 101).message
    enter(redis_client, "b", "large", item=b"x" * 101)
    few = Limits(open=100, open_bytes=10_000, known=4, tenant_share=0.5)
    enter(redis_client, "a", "second", few)
    SubmissionLedger(redis_client).cancel("a", "second")
    error = refused(redis_client, "a", few)
    assert "2 predictions are known already for one tenant" in error.message
    assert 500 < error.retry_after_s < 620  # when it is forgotten
    enter(redis_client, "b", "second", few)
    assert "4 predictions are known already (" in refused(redis_client, "c", few).message


def test_nothing_is_left_of_a_tenant_without_open_submissions(redis_client: redis.Redis) -> None:
    enter(redis_client, "a", "p")
    assert redis_client.exists("celeriac:submissions:tenant:a")
    SubmissionLedger(redis_client).cancel("a", "p")
    assert not redis_client.exists("celeriac:submissions:tenant:a")
    assert 600_000 < redis_client.pttl("celeriac:submissions:ended:a") < 611_000
    assert 0 < redis_client.pttl("celeriac:submissions:pace") <= 600_000


def test_when_there_should_be_room_follows_from_how_fast_submissions_end(
    redis_client: redis.Redis,
) -> None:
    ledger = SubmissionLedger(redis_client)
    for number in range(3):
        enter(redis_client, "a", f"p{number}")
    assert refused(redis_client, "a").retry_after_s == LONGEST_RETRY_S  # nothing has ended
    for number in range(6):  # some moments, in which six end: so many in a minute
        ledger.cancel("a", f"p{number}")
        enter(redis_client, "a", f"p{number + 3}")
    for number in range(3):
        enter(redis_client, "b", f"p{number}")
    assert refused(redis_client, "a").retry_after_s == pytest.approx(10, rel=0.1)
    assert refused(redis_client, "b").retry_after_s == pytest.approx(10, rel=0.1)  # of all
    redis_client.hincrbyfloat("celeriac:submissions:pace", "ended_us", -60e6)  # a minute later
    assert refused(redis_client, "c").retry_after_s == pytest.approx(27, rel=0.1)


def test_the_wait_is_bounded() -> None:
    assert retry_after_s(100_000, 1e9) == 1
    assert retry_after_s(100_000, 2.0) == LONGEST_RETRY_S
