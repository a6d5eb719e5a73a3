"""Word lists: phrases found in a text as whole words, whatever stands between the words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from celeriac.applications.moderation.reading import folded

_WORD = re.compile(r"\w+")
_FEW = 16
"""Words that are looked for one by one; of more, all words of the text are."""


class Phrases:
    """A list of phrases, compared without case, accents and punctuation.

    A text is looked through once, however long the list is.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for phrase in phrases:
            words = tuple(_WORD.findall(folded(phrase)))
            if words:
                self._by_first.setdefault(words[0], []).append(words)
        for alike in self._by_first.values():
            alike.sort(key=len, reverse=True)
        self._few = tuple(self._by_first) if len(self._by_first) <= _FEW else ()

    def __bool__(self) -> bool:
        return bool(self._by_first)

    def found(self, text: str) -> str | None:
        """The first phrase of the list that is in ``text``, as compared; None if none is."""
        text = folded(text)
        if self._are_not_in(text):
            return None
        words = _WORD.findall(text)
        if self._by_first.keys().isdisjoint(words):
            return None
        for at in range(len(words)):
            phrase = self._at(words, at)
            if phrase:
                return " ".join(phrase)
        return None

    def without(self, text: str) -> str:
        """``text`` without the phrases; as it is if there are none in it.

        >>> Phrases(["damn good"]).without("A Damn, GOOD show")
        'A  show'
        """
        if self._are_not_in(folded(text)):
            return text
        spans = [found.span() for found in _WORD.finditer(text)]
        words = [folded(text[start:stop]) for start, stop in spans]
        if self._by_first.keys().isdisjoint(words):
            return text
        kept, last, at = [], 0, 0
        while at < len(words):
            phrase = self._at(words, at)
            if phrase:
                kept.append(text[last : spans[at][0]])
                last = spans[at + len(phrase) - 1][1]
            at += max(len(phrase), 1)
        return "".join([*kept, text[last:]])

    def _are_not_in(self, text: str) -> bool:
        """True of most texts: no phrase begins anywhere in it, not even within a word."""
        if not self._few:
            return self._by_first.keys().isdisjoint(_WORD.findall(text))
        return not any(map(text.__contains__, self._few))

    def _at(self, words: list[str], at: int) -> tuple[str, ...]:
        """The longest phrase that begins at a word."""
        for phrase in self._by_first.get(words[at], ()):
            if tuple(words[at : at + len(phrase)]) == phrase:
                return phrase
        return ()
