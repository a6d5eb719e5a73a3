"""What a sender is told of JSON that cannot be read."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from producer.gateway.malformed import reason


@pytest.mark.parametrize(("data", "said"), [
    (json.dumps({"item": [1, math.nan]}), "no NaN and no Infinity: send null"),
    (json.dumps({"item": -math.inf}), "no NaN and no Infinity: send null"),
    ('{"item": None}', "invalid character (byte 9)"),
    ('{"item": "NaN" x}', "malformed"),
    (r'{"item": "cut \ud83d"}', "half of a surrogate pair"),
    (r'{"item": "\ud83d and more"}', "half of a surrogate pair"),
    (r'{"item": "\ude00 and more"}', "half of a surrogate pair"),
    (json.dumps({"item": "\U0001f600"})[:-1], "truncated"),
    ("\ufeff{}", "byte order mark"),
    ("{}".encode("utf-16"), "not UTF-8"),
    ('{"item": "é"}'.encode("latin-1"), "not UTF-8"),
    ("", "it is empty"),
    ("item=a", "invalid character (byte 0)"),
    ("[" * 100_000, "too deep"),
])
def test_what_is_wrong_is_said(data: str | bytes, said: str) -> None:
    sent = data.encode() if isinstance(data, str) else data
    with pytest.raises((msgspec.DecodeError, UnicodeError, RecursionError)) as caught:
        msgspec.json.decode(sent)
    assert said in reason(sent, caught.value)
    assert said in reason(memoryview(sent), caught.value)
