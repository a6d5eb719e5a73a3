"""How often the terms of a fitted vectorizer occur in texts, for many texts at once.

scikit-learn makes a text of each term, two or more words with blanks between them, and looks it
up. Here each word is looked up once, and terms of several words are found by the numbers of their
words, in whole arrays. What is counted is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count, repeat
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

_SHORTEST = {r"(?u)\b\w\w+\b": 2, r"(?u)\b\w+\b": 1}
"""Patterns whose words are the runs of word characters of at least so many."""
_WORD_BITS = 32
_NO_KEY = np.iinfo(np.int64).max
_BLANKED = "".join(c if c.isalnum() or c == "_" else " " for c in map(chr, range(128)))
"""ASCII, with blanks for what belongs to no word."""


class Counts(NamedTuple):
    """The terms of ``n`` texts: three arrays, in the order of texts, and then of places."""

    text: Array
    """Position of the text."""
    place: Array
    """Of the term in the vocabulary."""
    times: Array
    """float64."""


def counter(vectorizer: Any) -> Callable[[Sequence[str]], Counts]:
    """What counts the terms of a fitted CountVectorizer or TfidfVectorizer.

    The function raises TypeError or AttributeError of what is no text.
    """
    size = len(vectorizer.vocabulary_)
    words, find = _by_words(vectorizer) or _by_terms(vectorizer)

    def counts(texts: Sequence[str]) -> Counts:
        found = list(map(words, texts))
        lengths = list(map(len, found))
        begin = np.arange(0, len(texts) * size, size).repeat(lengths)
        codes = find(chain.from_iterable(found), begin)
        return _counted(codes, size)

    return counts


def _counted(codes: Array, size: int) -> Counts:
    """``codes``: ``text * size + place`` of each occurrence, in any order."""
    codes.sort()
    is_edge = np.ones(len(codes) + 1, bool)
    np.not_equal(codes[1:], codes[:-1], out=is_edge[1:-1])
    edges = is_edge.nonzero()[0]
    first = edges[:-1]
    text, place = np.divmod(codes[first], size)
    return Counts(text, place, (edges[1:] - first).astype(np.float64))


Words = Callable[[str], list[str]]
Find = Callable[[Iterable[str], Array], Array]
"""From the words of all texts, and what a place is added to at each, to a code for each term that
occurs."""


def _by_terms(vectorizer: Any) -> tuple[Words, Find]:
    """Its own analyzer makes the terms."""
    get = vectorizer.vocabulary_.get

    def find(terms: Iterable[str], begin: Array) -> Array:
        return _codes(np.fromiter(map(get, terms, repeat(-1)), np.int64, len(begin)), begin)

    return vectorizer.build_analyzer(), find


def _codes(place: Array, begin: Array) -> Array:
    known = (place >= 0).nonzero()[0]
    return begin[known] + place[known]


def _by_words(vectorizer: Any) -> tuple[Words, Find] | None:
    """None: it splits texts otherwise."""
    shortest = _SHORTEST.get(vectorizer.token_pattern, 0)
    if vectorizer.analyzer != "word" or vectorizer.tokenizer is not None or not shortest:
        return None
    preprocess, findall = vectorizer.build_preprocessor(), vectorizer.build_tokenizer()
    stop_words = vectorizer.get_stop_words()

    def words(text: str) -> list[str]:
        text = preprocess(text)
        found: list[str]
        if not text.isascii():
            found = findall(text)
        else:
            found = text.translate(_BLANKED).split()
            if shortest > 1:
                found = [word for word in found if len(word) > 1]
        if stop_words is not None:
            found = [word for word in found if word not in stop_words]
        return [*found, ""]  # which is no word: no term reaches into the next text

    return words, _Terms(vectorizer.vocabulary_, *vectorizer.ngram_range).find


class _Terms:
    """The terms of a vocabulary, word by word: a tree, whose nodes are numbered at each depth."""

    def __init__(self, vocabulary: Mapping[str, int], least: int, most: int) -> None:
        words = " ".join(vocabulary).split(" ")  # a list for each term would take much longer
        known: defaultdict[str, int] = defaultdict(count().__next__)
        numbers = np.fromiter(map(known.__getitem__, words), np.int64, len(words))
        self._numbers = dict(known)
        """Of each word; they are the nodes of the first depth, too."""
        blanks = map(str.count, vocabulary, repeat(" "))
        lengths = 1 + np.fromiter(blanks, np.int64, len(vocabulary))
        places = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
        first = lengths.cumsum() - lengths
        can_occur = (least <= lengths) & (lengths <= most)
        lengths, places, first = lengths[can_occur], places[can_occur], first[can_occur]
        node = numbers[first]
        ends = lengths == 1
        self._places = _by_node(node[ends], places[ends], len(known))
        self._deeper = []
        for depth in range(1, most):
            longer = lengths > depth
            lengths, places, first = lengths[longer], places[longer], first[longer]
            keys = node[longer] << _WORD_BITS | numbers[first + depth]
            nodes, node = np.unique(keys, return_inverse=True)
            ends = lengths == depth + 1
            here = _by_node(node[ends], places[ends], len(nodes))
            self._deeper.append((np.append(nodes, _NO_KEY), here))
        self._numbers.pop("", None)  # of terms with two blanks side by side, which cannot occur

    def find(self, words: Iterable[str], begin: Array) -> Array:
        """The code of each term that occurs; words that are none are known as -1."""
        get = self._numbers.get
        numbers = node = np.fromiter(map(get, words, repeat(-1)), np.int64, len(begin))
        found = [self._places[node]]
        for depth, (nodes, places) in enumerate(self._deeper, start=1):
            # Where either is -1, the key is negative, and no node's.
            keys = node[:-1] << _WORD_BITS | numbers[depth:]
            near = nodes.searchsorted(keys)
            node = np.where(nodes[near] == keys, near, -1)
            found.append(places[node])
        begins = [begin[: len(places)] for places in found]
        return _codes(np.concatenate(found), np.concatenate(begins))


def _by_node(nodes: Array, places: Array, count: int) -> Array:
    """The place of each node; -1: only longer terms go by it. The last entry is for no node."""
    found = np.full(count + 1, -1, np.int64)
    found[nodes] = places
    return found
