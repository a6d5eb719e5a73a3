"""A line of the access log says what its fields are, each in a form that stays on one line."""

from __future__ import annotations

from typing import Any

import pytest

from producer.gateway.access import Record, as_text, fields
from producer.gateway.context import Caller, RequestContext


async def nothing() -> dict[str, Any]:
    return {}


def record(method: str = "POST", status: int = 200, **named: Any) -> Record:
    scope = {"method": method, "path": "/secret", "headers": []}
    context = RequestContext(scope, nothing, "0123456789abcdef", 1.0)
    for name, value in named.items():
        setattr(context, name, value)
    return Record(context, status, 0.0123456, 1_700_000_000.25)


PLAIN = {"route": "/v1/models/{model}/predict", "model": "digits", "items": 1, "version": 3}


@pytest.mark.parametrize(
    "named",
    [
        {},
        PLAIN,
        {**PLAIN, "batch_items": 32, "cache": "miss"},
        {**PLAIN, "model": "m" * 200, "version": 0, "code": "model_not_found"},
        {"status": 499, "method": "BREW", "caller": Caller("shop", "t1", frozenset())},
    ],
)
def test_a_line_has_all_fields_in_their_order(named: dict[str, Any]) -> None:
    one = record(**named)
    shown = " ".join(f"{name}={value}" for name, value in fields(one).items())
    assert as_text(one) == f"2023-11-14T22:13:20.250000Z [info     ] request {shown}\n"


def test_what_callers_write_stays_on_one_line() -> None:
    one = record(method="GET\n", model="a b\n[info] \x1b[31m", route="", items=1)
    line = as_text(one)
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert ' model="a b\\n[info] ' in line
    assert ' method="GET\\n" route="" status=200 ' in line
