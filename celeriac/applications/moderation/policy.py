"""A policy: which models are asked about what, from which score on what happens, and word lists.

It is a TOML file with a name and a version. ``celeriac moderation policy --example`` prints one.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from celeriac import errors
from celeriac.applications.moderation.lists import Phrases
from celeriac.messages import ModelRef

EXAMPLE = Path(__file__).with_name("example.toml")
"""A policy to begin with; also what holds where the settings name none."""

Score = Annotated[float, Field(ge=0, le=1, strict=True)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Category(_Table):
    """What one model is asked about a text or an image."""

    model: str
    """``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``."""
    label: str | int | bool | None = None
    """The label whose probability is the score; None: the model answers with the score itself."""
    review: Score
    """From this score on people look at it ..."""
    block: Annotated[float, Field(ge=0, le=2, strict=True)]
    """... and from this one on it is blocked. Above 1: never, as no score is."""

    @field_validator("model")
    @classmethod
    def _a_model(cls, model: str) -> str:
        try:
            ModelRef.parse(model)
        except errors.RequestError as error:
            raise ValueError(error.message) from None
        return model

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.review > self.block:
            raise ValueError(
                f"review ({self.review:g}) is above block ({self.block:g}): what is blocked "
                "would never be reviewed"
            )
        return self

    def action(self, score: float) -> Action:
        if score >= self.block:
            return "block"
        return "review" if score >= self.review else "allow"


Action = Literal["allow", "review", "block"]


class Lists(_Table):
    """What is known without a model."""

    allow: tuple[str, ...] = ()
    """Words and phrases that are taken out of a text before anybody judges it."""
    block: tuple[str, ...] = ()
    """Words and phrases that block a text, however they are disguised."""
    allow_images: tuple[Digest, ...] = ()
    """SHA-256 of files that no model is asked about ..."""
    block_images: tuple[Digest, ...] = ()
    """... and of files that block a post."""

    @field_validator("allow", "block")
    @classmethod
    def _words(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in phrases:
            if not Phrases([phrase]):
                raise ValueError(f"{phrase!r} has neither a letter nor a digit")
        return phrases

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        allowed = Phrases(self.allow)
        both = [phrase for phrase in self.block if allowed.without(phrase).strip() == ""]
        both += sorted(set(self.allow_images) & set(self.block_images))
        if both:
            raise ValueError(f"{both[0]!r} is allowed and blocked")
        return self


class Policy(_Table):
    """One version of a policy."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    version: Annotated[int, Field(ge=1, le=10**9, strict=True)]
    """Raise it with each change: one version never means two things."""
    piece_chars: Annotated[int, Field(ge=40, le=100_000, strict=True)] = 240
    """Texts are judged in pieces of so many characters; the worst piece counts."""
    unreadable: Action = "review"
    """What becomes of a post with an image that cannot be read."""
    unjudged: Action = "review"
    """What becomes of a post with a text or an image that no category is about."""
    texts: dict[str, Category] = {}
    """Categories of texts, by name."""
    images: dict[str, Category] = {}
    """Categories of images, by name."""
    lists: Lists = Lists()

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not (self.texts or self.images):
            raise ValueError("it has no category: give [texts.NAME] or [images.NAME]")
        odd = [name for name in (*self.texts, *self.images)
               if not name.isprintable() or name != name.strip() or not name]
        if odd:
            raise ValueError(
                f"a category is named {odd[0]!r}: a name is one line, without spaces at its ends"
            )
        both = self.texts.keys() & self.images.keys()
        if both:
            raise ValueError(f"the category {min(both)!r} is in texts and in images: rename one")
        return self

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"

    @cached_property
    def digest(self) -> str:
        """Of what it says: 16 hexadecimal digits, whatever its file looks like."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @cached_property
    def allowed(self) -> Phrases:
        return Phrases(self.lists.allow)

    @cached_property
    def blocked(self) -> Phrases:
        return Phrases(self.lists.block)

    @cached_property
    def text_models(self) -> tuple[str, ...]:
        """Each once, however many categories ask it."""
        return tuple(dict.fromkeys(category.model for category in self.texts.values()))

    @cached_property
    def image_models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(category.model for category in self.images.values()))

    @cached_property
    def categories(self) -> dict[str, Category]:
        return {**self.texts, **self.images}


def read_policy(path: Path | None) -> Policy:
    """The policy of a file; None: the example. Raises ConfigError, which says what to mend."""
    path = path or EXAMPLE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise errors.ConfigError(
            f"the policy {path} cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeError as error:
        raise errors.ConfigError(f"the policy {path} is not UTF-8: {error}") from error
    return parse_policy(text, str(path))


def parse_policy(text: str, where: str) -> Policy:
    """As :func:`read_policy`, of the file's text."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.ConfigError(f"the policy {where} is not valid TOML: {error}") from error
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        told = "; ".join(_told(item) for item in error.errors()[:5])
        raise errors.ConfigError(f"the policy {where}: {told}") from error


_PLAIN = {
    "model_type": "is a table of its own, as [texts.toxicity] or [lists]",
    "dict_type": "has a table for each category, as [texts.toxicity]",
    "int_type": "is a whole number, without quotes",
    "float_type": "is a number, without quotes",
    "tuple_type": 'is a list, as ["buy followers"]',
}
"""Where pydantic's own words are about Python."""


def _told(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _names(item["loc"]), 1)
        known = ", ".join(_names(item["loc"]))
        guess = f"did you mean {near[0]!r}?" if near else f"known: {known}"
        return f"{place} is not known; {guess}"
    if item["type"] == "missing":
        return f"{place} is missing"
    message = _PLAIN.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _names(place: tuple[Any, ...]) -> list[str]:
    table: type[BaseModel] = Policy
    if place[0] in ("texts", "images"):
        table = Category
    elif place[0] == "lists" and len(place) > 1:
        table = Lists
    return list(table.model_fields)
