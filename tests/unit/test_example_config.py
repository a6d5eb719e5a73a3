"""``celeriac.toml`` at the root shows every setting with its default, and changes none."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from celeriac.settings import Settings, load_settings, scalars

EXAMPLE = Path(__file__).resolve().parents[2] / "celeriac.toml"


def uncommented(prefix: str) -> dict[str, Any]:
    """The file with the settings behind ``prefix`` switched on."""
    setting = re.compile(rf"^{re.escape(prefix)}(\[[\w.]+\]|\w+ = .+)$", re.MULTILINE)
    return tomllib.loads("\n".join(setting.findall(EXAMPLE.read_text(encoding="utf-8"))))


def test_the_file_changes_nothing() -> None:
    assert load_settings(EXAMPLE, {}) == Settings()


def test_every_setting_is_shown_with_its_default() -> None:
    shown = uncommented("# ")
    assert Settings.model_validate(shown) == Settings()
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert set(shown[section]) == set(scalars(field.annotation)) - {"url"}, section


def test_the_night_that_is_shown_is_valid() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    night = tomllib.loads(text[text.index("# #[nightly") :].replace("# #", ""))
    assert Settings.model_validate(night).nightly["reviews"].at == "02:00"


def test_the_key_that_is_shown_is_valid() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    shown = re.search(r"(?:^# #.*gateway\.keys.*\n)(?:^# #.*\n)+", text, re.MULTILINE)
    assert shown
    key = tomllib.loads(shown[0].replace("# #", ""))
    assert Settings.model_validate(key).gateway.keys["shop"].scopes == ("infer", "batch")
