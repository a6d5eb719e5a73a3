"""How deep a JSON body is nested, and in how many lists: counted before it is decoded.

Decoding takes memory for each list and stack for each level, so both are bounded first. The count
is one pass over brackets and quotes: its time does not depend on what they say.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from celeriac import errors

MAX_LISTS = 100_000
"""Lists and objects of one body, at most: each takes some twenty times its two brackets."""
_BLOCK = 1 << 16
_MARKS = b'[]{}"'
_OTHERS = bytes(set(range(256)) - set(_MARKS))
_OPEN, _CLOSE, _QUOTE = 1, 255, 2
"""A bracket that closes is -1 as a signed byte."""
_CODES = bytes.maketrans(_MARKS, bytes([_OPEN, _CLOSE, _OPEN, _CLOSE, _QUOTE]))


def check_nesting(data: bytes, max_depth: int, max_lists: int = MAX_LISTS) -> None:
    """Raises RequestError if brackets are nested deeper, or are more.

    Exact for JSON; what is none may pass, and is left to the decoder.
    """
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return  # only a body with more brackets can be nested too deep
    if b"\\" in data:  # without escapes, every quote begins or ends a text
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    codes = data.translate(_CODES, _OTHERS)
    depth, lists, in_text = 0, 0, False
    for start in range(0, len(codes), _BLOCK):
        steps, in_text = _steps(codes[start : start + _BLOCK], in_text)
        depths = np.cumsum(steps, dtype=np.int32)
        if depth + int(depths.max()) > max_depth:
            raise errors.RequestError(
                f"the body is nested deeper than {max_depth} levels ([gateway] max_depth)"
            )
        depth += int(depths[-1])
        lists += int(np.count_nonzero(steps == _OPEN))
        if lists > max_lists:
            raise errors.RequestError(
                f"the body has more than {max_lists:,} lists and objects: send numbers as typed "
                'arrays ({"$array": ...}), or score large data as a dataset'
            )


def _steps(block: bytes, in_text: bool) -> tuple[Any, bool]:
    """+1 and -1 for the brackets outside of texts, 0 for the others; whether it ends in a text."""
    codes = np.frombuffer(block, np.uint8)
    quotes = codes == _QUOTE
    seen = np.cumsum(quotes, dtype=np.uint8)  # it may wrap: only odd or even counts
    outside = (seen ^ np.uint8(not in_text)) & ~quotes & 1
    return (codes * outside).view(np.int8), bool((seen[-1] ^ in_text) & 1)
