"""What a text says to whoever reads it: hidden characters, look-alikes and pieces.

Two readings of a text are given to models and lists. The plain one is the text in Unicode's normal
form, without invisible characters, and with look-alikes of other scripts as what they look like.
The unmasked one has the other usual disguises undone: digits and signs for letters, spaced letters,
stretched letters. Most texts have the first alone, which then is the text itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple


class Reading(NamedTuple):
    """What a text says."""

    plain: str
    unmasked: str | None
    """None: as the plain one."""


def read(text: str) -> Reading:
    """The readings of a text.

    >>> read("Sh1t, th\\u200bat f u n n y d\\u043eg")
    Reading(plain='Sh1t, that f u n n y dog', unmasked='Shit, that funny dog')
    """
    plain = text if text.isascii() else _without_tricks(text)
    if not _is_suspect(plain):
        return Reading(plain, None)
    unmasked = _unmasked(plain)
    return Reading(plain, None if unmasked == plain else unmasked)


def folded(text: str) -> str:
    """A reading as lists compare it: without case and accents."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in apart if not unicodedata.combining(char))


def pieces(text: str, most: int) -> Sequence[str]:
    """A text in pieces of at most ``most`` characters, cut between words where there are any.

    A bad sentence among many good ones weighs little: so each piece is judged by itself.
    """
    if len(text) <= most:
        return (text,)
    found, start = [], 0
    while start < len(text):
        stop = min(start + most, len(text))
        if stop < len(text):
            space = text.rfind(" ", start + most // 2, stop + 1)
            stop = space if space > 0 else stop
        piece = text[start:stop].strip()
        if piece:
            found.append(piece)
        start = stop
    return found


# --- tricks with characters ----------------------------------------------------------------------


def _without_tricks(text: str) -> str:
    text = unicodedata.normalize("NFKC", _HIDDEN.sub("", text))
    text = _PILES.sub(r"\1", text)
    if text.isascii() or _FOREIGN.search(text) is None:
        return text
    is_latin = re.search("[a-zA-Z]{2}", text) is not None
    return _WORD.sub(lambda word: _as_latin(word[0], is_latin), text)


def _as_latin(word: str, among_latin: bool) -> str:
    """A word that mixes scripts, or could be read as a Latin one among others, as that."""
    if word.isascii() or _FOREIGN.search(word) is None:
        return word
    latin = word.translate(_LOOK_ALIKES)
    if not all(char.isascii() or char == word[at] for at, char in enumerate(latin)):
        return word
    mixes = re.search("[a-zA-Z]", word) is not None
    return latin if mixes or (among_latin and latin.isascii()) else word


_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
"""What takes no room, or turns the direction of reading. Emoji lose a joiner at most."""
_PILES = re.compile("([\u0300-\u036f]{2})[\u0300-\u036f]+")
"""No language puts more than two marks on one letter."""
_FOREIGN = re.compile("[\u0131\u0251\u0261\u0370-\u03ff\u0400-\u052f]")
_WORD = re.compile(r"\w+")
_LOOK_ALIKES = str.maketrans(
    "АВЕЁКМНОРСТУХІЇЈЅԌԜавеёкмнорстухіїјѕһԁӏԛԝгΑΒΕΖΗΙΚΜΝΟΡΤΥΧαβειηκνορτυχωɡɑı",
    "ABEEKMHOPCTYXIIJSGWabeekmhopctyxiijshdlqwrABEZHIKMNOPTYXabeinkvoptuxwgai",
)

# --- disguises -----------------------------------------------------------------------------------

_SIGN = re.compile("[013457@$!|*_]")
_SUSPECT_SIGN = re.compile("[a-zA-Z][013457@$!|*_]|[013457@$!|][a-zA-Z]")
_SUSPECT_SPACES = re.compile("[ ._*-][a-zA-Z][ ._*-]{1,2}[a-zA-Z](?![a-zA-Z])")
_STRETCHED = re.compile(r"([a-zA-Z])\1\1+")
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_](?:[\s._*-]{1,2}[^\W\d_]){2,}(?![^\W_])")
_MASKED = re.compile(r"[\w@$!|]+")
_LETTER = re.compile("[a-zA-Z]")
_STROKE = re.compile("(?<=[a-z])[!|](?=[a-z])")
_SIGNS = str.maketrans("013457@$", "oieastas")
_NUMBERED = re.compile(r"\d+[a-z]{1,3}|[a-z]{1,3}\d+", re.IGNORECASE)
"""2nd, 4k, mp3, 10kg: digits that are digits."""


def _is_suspect(text: str) -> bool:
    """Most texts have no disguise at all; three looks that take a microsecond each say so."""
    if _SIGN.search(text) and _SUSPECT_SIGN.search(text):
        return True
    return bool(_STRETCHED.search(text) or _SUSPECT_SPACES.search(text))


def _unmasked(text: str) -> str:
    text = _SPACED.sub(lambda found: re.sub(r"[\W_]", "", found[0]), text)
    text = _STROKE.sub("i", text)
    text = _MASKED.sub(lambda found: _letters(found[0]), text)
    return _STRETCHED.sub(r"\1", text)


def _letters(word: str) -> str:
    """A word with letters for the signs that stand for them."""
    core = word.strip("!|")
    if core.isalpha() or _NUMBERED.fullmatch(core) or _LETTER.search(core) is None:
        return word
    return core.replace("_", "").translate(_SIGNS)
