"""A policy: what is valid, what a typo is told, and what its version stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from celeriac import errors
from celeriac.applications.moderation.policy import EXAMPLE, Policy, parse_policy, read_policy

TEXT = """
name = "house"
version = 3
[texts.toxicity]
model = "profanity"
label = 1
review = 0.5
block = 0.9
"""


def test_the_example_is_valid() -> None:
    policy = read_policy(None)
    assert policy == read_policy(EXAMPLE)
    assert policy.ref == "example@1"
    assert (policy.text_models, policy.image_models) == (("profanity",), ("image-safety",))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("model =", "modle ="), "texts.toxicity.modle is not known; did you mean 'model'?"),
        (("model =", "modle ="), "texts.toxicity.model is missing"),
        (("[texts.", "[text."), "text is not known; did you mean 'texts'?"),
        (("version = 3\n", ""), "version is missing"),
        (("version = 3", "version = 0"), "version: Input should be greater"),
        (("0.5", "0.95"), "texts.toxicity: review (0.95) is above block (0.9)"),
        (("0.5", "1.5"), "texts.toxicity.review: Input should be less than or equal to 1"),
        (("0.5", '"high"'), "texts.toxicity.review: is a number, without quotes"),
        (("0.5", '"0.6"'), "texts.toxicity.review: is a number, without quotes"),
        (("0.9", "true"), "texts.toxicity.block: is a number, without quotes"),
        (("version = 3", "version = true"), "version: is a whole number, without quotes"),
        (("version = 3", 'version = "3"'), "version: is a whole number, without quotes"),
        (("[texts.toxicity]", '[texts.""]'), "a category is named ''"),
        (("[texts.toxicity]", '[texts."a\\nb"]'), "a name is one line"),
        (("[texts.toxicity]", '[texts." a"]'), "without spaces at its ends"),
        (("0.5", ".5"), "is not valid TOML"),
        (('"profanity"', '"Profanity!"'), "is not a model name"),
        (("[texts.toxicity]", "[texts]"), "texts.model: is a table of its own, as ["),
        (("[texts", '[lists]\nblock = "bad"\n[texts'), "lists.block: is a list, as ["),
        (('name = "house"', 'name = "My House"'), "name: String should match"),
        (("[texts", '[lists]\nblock = ["!!"]\n[texts'), "'!!' has neither a letter nor a digit"),
        (("[texts", '[lists]\nblok = ["a"]\n[texts'), "lists.blok is not known; did you mean"),
        (
            ("[texts", '[lists]\nblock = ["Bad word"]\nallow = ["bad", "bad word"]\n[texts'),
            "'Bad word' is allowed and blocked",
        ),
        (("[texts", '[lists]\nblock_images = ["abc"]\n[texts'), "lists.block_images.0: String"),
        (("version = 3", 'version = 3\nunreadable = "ask"'), "unreadable: Input should be 'allow'"),
    ],
)
def test_a_typo_is_told(change: tuple[str, str], told: str) -> None:
    with pytest.raises(errors.ConfigError) as raised:
        parse_policy(TEXT.replace(*change), "house.toml")
    assert told in raised.value.message
    assert "house.toml" in raised.value.message


def test_a_policy_without_a_question_is_none() -> None:
    with pytest.raises(errors.ConfigError, match="it has no category"):
        parse_policy('name = "house"\nversion = 1\n', "house.toml")


def test_a_category_has_one_meaning() -> None:
    with pytest.raises(errors.ConfigError, match="'toxicity' is in texts and in images"):
        parse_policy(TEXT + TEXT[TEXT.index("[") :].replace("texts", "images"), "house.toml")


def test_the_digest_is_of_what_it_says() -> None:
    policy = parse_policy(TEXT, "one")
    assert policy.digest == parse_policy("# a comment\n" + TEXT, "other").digest
    assert policy.digest != parse_policy(TEXT.replace("0.5", "0.51"), "third").digest
    assert Policy.model_validate_json(policy.model_dump_json()).digest == policy.digest


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    told = r"no\.toml cannot be read: No such file or directory$"
    with pytest.raises(errors.ConfigError, match=told):
        read_policy(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("score", "action"),
    [(0.0, "allow"), (0.499, "allow"), (0.5, "review"), (0.899, "review"), (0.9, "block")],
)
def test_thresholds_are_reached_from_below(score: float, action: str) -> None:
    assert parse_policy(TEXT, "one").texts["toxicity"].action(score) == action


def test_above_one_never_blocks() -> None:
    policy = parse_policy(TEXT.replace("0.9", "1.1"), "one")
    assert policy.texts["toxicity"].action(1.0) == "review"
