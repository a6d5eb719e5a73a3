"""Terms are counted as scikit-learn counts them."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from celeriac.runtimes.sklearn_terms import counter

TEXTS = ["good coffee, good day", "the_best I had", "a b a b 7 up", "sehr sch\u00f6n",
         "\u212a \u0130 x", "caf\u00e9 cafe\u0301 \u4e16\u754c \u3042", "don't do-it 2\u00b2",
         "fine " * 9]
VECTORIZERS: list[dict[str, Any]] = [
    {}, {"ngram_range": (1, 2)}, {"ngram_range": (2, 2)}, {"ngram_range": (1, 4)},
    {"ngram_range": (2, 4), "max_features": 5}, {"ngram_range": (3, 3)},
    {"token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 3)}, {"token_pattern": r"\S+"},
    {"stop_words": ["good", "the_best"], "ngram_range": (1, 2)}, {"lowercase": False},
    {"strip_accents": "unicode"}, {"strip_accents": "ascii", "ngram_range": (1, 2)},
    {"analyzer": "char", "ngram_range": (1, 3)}, {"analyzer": "char_wb", "ngram_range": (2, 4)},
    {"vocabulary": ["day", "good coffee", "fine  fine", " fine", "", "a", "no! no",
                    "fine fine fine", "never of the text"], "ngram_range": (2, 3)},
    {"vocabulary": ["day", "good coffee", " ", "the_best", ""]},
]


@cache
def known(number: int) -> Any:
    vectorizer = CountVectorizer(**VECTORIZERS[number]).fit(TEXTS)
    return vectorizer, counter(vectorizer)


def check(number: int, texts: list[str]) -> None:
    vectorizer, count = known(number)
    own = vectorizer.transform(texts)
    own.sort_indices()
    found = count(texts)
    assert np.array_equal(found.place, own.indices)
    assert np.array_equal(found.times, own.data)
    assert np.array_equal(found.text, np.arange(len(texts)).repeat(np.diff(own.indptr)))


SEPARATORS = [" ", "  ", "\n", "_", "-", "'", "\x00", "\x1c", "\x85", "\u00a0", "\u0301", "\u200d"]
WORDS = st.sampled_from([word for text in TEXTS for word in text.split()])
PIECES = st.one_of(WORDS, st.sampled_from(SEPARATORS), st.text(max_size=3))
ANY_TEXT = st.one_of(st.lists(PIECES, max_size=20).map("".join),
                     st.lists(WORDS, max_size=20).map(" ".join))


@settings(max_examples=200)
@given(st.integers(0, len(VECTORIZERS) - 1), st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_any_texts(number: int, texts: list[str]) -> None:
    check(number, texts)


@pytest.mark.parametrize("number", range(len(VECTORIZERS)))
def test_texts(number: int) -> None:
    check(number, [*TEXTS, "", "unseen", *TEXTS])
    check(number, ["unseen"])


def test_each_character_beside_a_word() -> None:
    """A character is one of words for the one where it is one for the other."""
    for number in (1, 6):
        texts = ["".join(f"fine{chr(code)}fine coffee{chr(code)} day" for code in codes)
                 for codes in (range(256), range(256, 3_000), range(0x1F000, 0x20000))]
        check(number, texts)


def test_all_characters_that_end_a_word() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    check(0, [f" {one}good {one} day{one} ".join(["fine"] * 2) for one in every[:: 97]])


@pytest.mark.parametrize("bad", [None, 7, b"good", ["good"]])
def test_what_is_no_text_raises(bad: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        known(0)[1](["good", bad])
