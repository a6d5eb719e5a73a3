"""JSON that cannot be read: why, in words that help its sender.

The decoder says what it met and where, but does not know what usual encoders write that is no JSON.
"""

from __future__ import annotations

import re

_MOST_CHARS = 150
_PLACE = re.compile(r" \(byte (\d+)\)$")
_NOT_FINITE = re.compile(rb"nan|inf", re.IGNORECASE)
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])"
)
"""A surrogate without the other one. It begins with plain text, or the search would look at each
byte of megabytes for a tenth of a second."""
_UTF_8_MARK, _UTF_16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def reason(data: bytes | memoryview, error: Exception) -> str:
    """Why the decoder raised ``error`` for ``data``.

    >>> reason(b'{"item": NaN}', ValueError("JSON is malformed: invalid character (byte 9)"))
    'JSON has no NaN and no Infinity: send null for a number that is missing (byte 9)'
    """
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if not data:
        return "it is empty"
    head = bytes(data[:3])
    if isinstance(error, UnicodeError) or head.startswith(_UTF_16_MARKS):
        return "it is not UTF-8"
    if head == _UTF_8_MARK:
        return "it begins with a byte order mark: send UTF-8 without one"
    said = str(error).partition("\n")[0][:_MOST_CHARS]
    place = _PLACE.search(said)
    if place and _NOT_FINITE.match(data, int(place[1])):
        return f"JSON has no NaN and no Infinity: send null for a number that is missing{place[0]}"
    if ("surrogate" in said or "truncated" in said) and _HALF.search(data):
        return "a text has half of a surrogate pair: it was cut within an emoji, for example"
    return said
