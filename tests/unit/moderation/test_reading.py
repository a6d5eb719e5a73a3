"""What a text says once its tricks are undone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st

from celeriac.applications.moderation.lists import Phrases
from celeriac.applications.moderation.reading import folded, pieces, read

ZERO_WIDTH = "\u200b"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Nice weather, isn't it?", "Nice weather, isn't it?"),
        (f"id{ZERO_WIDTH}iot", "idiot"),
        ("id\u00adiot", "idiot"),
        ("\u202eidiot", "idiot"),
        ("i\u0434iot", "i\u0434iot"),  # no look-alike: nobody reads it as Latin
        ("idi\u043et", "idiot"),
        ("\u0456diot", "idiot"),
        ("you \u0441\u043e\u0441\u043e", "you coco"),
        ("\uff29\uff24\uff29\uff2f\uff34", "IDIOT"),
        ("\u1d49\u2071", "ei"),
        ("n\u0303\u0303\u0303\u0303\u0303o", "\u00f1\u0303\u0303o"),
        ("\u043f\u0440\u0438\u0432\u0435\u0442, \u0441\u043e\u0441\u0435\u0434",
         "\u043f\u0440\u0438\u0432\u0435\u0442, \u0441\u043e\u0441\u0435\u0434"),
        ("\u0441\u043e\u0441\u043d\u0430", "\u0441\u043e\u0441\u043d\u0430"),
        ("caf\u00e9 \u4f60\u597d \U0001f600", "caf\u00e9 \u4f60\u597d \U0001f600"),
        ("", ""),
    ],
)
def test_the_plain_reading(text: str, plain: str) -> None:
    assert read(text).plain == plain


@pytest.mark.parametrize(
    ("text", "unmasked"),
    [
        ("1d10t", "idiot"), ("b!tch", "bitch"), ("a$$", "ass"), ("$hit", "shit"),
        ("f.u.n.n.y dog", "funny dog"), ("f u n n y", "funny"), ("f_u_n_n_y", "funny"),
        ("fuuuuunny", "funny"), ("id1\u043et", "idiot"), ("_f_u_n_n_y_", "funny"),
        ("1111 1d10t 1111", "1111 idiot 1111"),
        ("Hello!!!", None), ("10kg of mp3 on the 2nd in 4k", None), ("I am a boy", None),
        ("see page 13, line 40", None), ("wait...", None), ("cost $5", None),
    ],
)
def test_the_unmasked_reading(text: str, unmasked: str | None) -> None:
    assert read(text).unmasked == unmasked


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    reading = read(text)
    assert reading.unmasked != reading.plain
    assert folded(reading.plain) == folded(reading.plain.upper()) or not reading.plain.isascii()


@given(st.text(max_size=400), st.integers(40, 100))
def test_pieces_hold_all_words(text: str, most: int) -> None:
    found = pieces(text, most)
    assert all(len(piece) <= most for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_pieces_end_between_words() -> None:
    assert pieces("one two three four five six", 40) == ("one two three four five six",)
    assert all(set(piece.split()) <= {"seven"} for piece in pieces("seven " * 100, 40))


UNITS = ["a", "a ", "\u04301!", "!", "1", "a.b", "\u0303", "\u200b", "$a", "a_.", "a__",
         "_", "\u4f60"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_of_anything_takes_no_minute(unit: str) -> None:
    text = "1d10t " + unit * (1_000_000 // len(unit)) + "aaa"  # all disguises are looked for
    began_s = time.perf_counter()
    reading = read(text)
    pieces(reading.plain, 240)
    Phrases(["one two"]).found(reading.plain)
    assert time.perf_counter() - began_s < 20


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("buy followers", "BUY  Followers now!", True),
        ("buy followers", "buy, followers", True),
        ("buy followers", "buyfollowers", False),
        ("ass", "a class of bass", False),
        ("caf\u00e9", "CAFE", True),
        ("stra\u00dfe", "STRASSE", True),
        ("buy", "", False),
    ],
)
@pytest.mark.parametrize("more", [0, 100])
def test_phrases_are_whole_words(phrase: str, text: str, found: bool, more: int) -> None:
    others = [f"another{number} phrase" for number in range(more)]
    assert bool(Phrases([phrase, *others]).found(text)) is found


def test_the_longest_phrase_is_taken_out() -> None:
    allowed = Phrases(["moby", "moby dick"])
    assert allowed.without("I read Moby-Dick, twice") == "I read , twice"
    assert allowed.without("I read") == "I read"
    assert not Phrases(["!!"])
