"""Reads ``celeriac.toml`` and the environment, and says what is wrong in them."""

from __future__ import annotations

import difflib
import logging
import os
import re
import shlex
import tomllib
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from celeriac import errors
from celeriac.settings import certificates, variables
from celeriac.settings.tables import Settings

log = logging.getLogger(__name__)


def load_settings(
    path: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the file, then the environment.

    Raises ConfigError, which names the file, the setting, what is wrong, and a likely spelling.
    """
    environ = os.environ if environ is None else environ
    path = path or config_path(environ)
    data = _read_toml(path) if path else {}
    _override(data, environ)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise errors.ConfigError(_explain(error, path)) from error
    check_broker_url(settings.broker_url)
    if settings.cache.url:
        check_broker_url(settings.cache.url, "cache")
    return settings


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once at first use."""
    return load_settings()


def check_broker_url(url: str, whose: str = "broker") -> str:
    """``url`` itself; raises ConfigError if it cannot be the address of a Redis."""
    try:
        parts = urlsplit(certificates.checked(url))
        usable = (
            parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
            and certificates.is_known(parts.query)
            # redis-py would take database 0 for anything that is no number.
            and re.fullmatch(r"/?|/[0-9]+", parts.path)
        )
    except ValueError:
        usable = False
    if not usable:
        raise errors.ConfigError(
            f"the {whose} URL {hide_password(url)!r} is not usable; "
            "it looks like redis://host:6379/0, or rediss://host:6379/0 for TLS, whose "
            "ssl_cert_reqs is required, optional or none"
        )
    return url


def hide_password(url: str) -> str:
    """``url`` without its password, for messages and logs."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.partition(':')[0]}:***@{tail}"


def config_path(environ: Mapping[str, str]) -> Path | None:
    """The file that is read; None if there is none."""
    named = environ.get(variables.CONFIG)
    if named:
        return Path(named)
    default = Path("celeriac.toml")
    return default if default.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise errors.ConfigError(f"{path}: no such file (CELERIAC_CONFIG names it)") from error
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: is not valid TOML: {error}") from error


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put the scalars that the environment names into ``data``.

    Raises ConfigError for a variable that looks like a setting misspelt.
    """
    known = _variables()
    _check_names(environ, known)
    for variable, (section, model, name) in known.items():
        if variable in environ:
            table = data.setdefault(section, {})
            if isinstance(table, dict):
                table[name] = _env_value(model, name, environ[variable])


def _variables() -> dict[str, tuple[str, type[BaseModel], str]]:
    """Each variable with the section and the setting that it is for."""
    found = {}
    for section, field in Settings.model_fields.items():
        table = field.annotation
        if isinstance(table, type) and issubclass(table, BaseModel):
            for name in scalars(table):
                found[f"{variables.PREFIX}{section}_{name}".upper()] = (section, table, name)
    return found


def _check_names(environ: Mapping[str, str], known: Collection[str]) -> None:
    for name, meant in variables.unknown(environ, known).items():
        if meant is not None:
            raise errors.ConfigError(
                f"the environment: {name}: no such setting; did you mean {meant}?"
            )
        log.warning("the environment: %s: no such setting; it is ignored", name)


def scalars(section: type[BaseModel]) -> list[str]:
    """The settings of a section that have a place in the environment: all but its tables."""
    return [
        name for name, field in section.model_fields.items()
        if get_origin(field.annotation) is not dict
    ]  # fmt: skip


def _env_value(model: type[BaseModel], name: str, text: str) -> Any:
    annotation = model.model_fields[name].annotation
    if get_origin(annotation) not in (tuple, list):
        return text if annotation is str else text or None
    as_in_file = _listed(text)
    if as_in_file is not None:
        return as_in_file
    if get_origin(annotation) is list:  # a command line, which may hold commas
        return shlex.split(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _listed(text: str) -> list[Any] | None:
    """A list that is written as in the file; None for what is none."""
    try:
        found = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return None
    return found if isinstance(found, list) else None


def _explain(error: ValidationError, path: Path | None) -> str:
    where = str(path) if path else "the environment"
    lines = [f"{where}: {_explain_one(dict(item))}" for item in error.errors()[:5]]
    return "\n".join(lines)


def _explain_one(item: dict[str, Any]) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        problem = item["msg"].removeprefix("Value error, ")
        found = item["input"]
        if item["type"] == "missing":  # found is then the table that lacks it
            return f"{location}: it is missing"
        shown = hide_password(found) if isinstance(found, str) and "://" in found else found
        return f"{location}: {problem} (found {shown!r})"
    name = str(item["loc"][-1])
    close = difflib.get_close_matches(name, _names_beside(item["loc"][:-1]), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{location}: no such setting{hint}"


def _names_beside(location: tuple[Any, ...]) -> list[str]:
    """The settings of the table at ``location``."""
    table: Any = Settings
    for name in location:
        if not _is_table(table):  # a table of tables: ``name`` is a schedule's
            table = next((one for one in get_args(table) if _is_table(one)), None)
        else:
            field = table.model_fields.get(name)
            table = field.annotation if field else None
    tables = [table, *get_args(table)]  # ``Table | None``
    return next((list(one.model_fields) for one in tables if _is_table(one)), [])


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
