"""``celeriac models gc``: delete versions that nobody needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import redis
import typer

from celeriac.settings import get_settings
from producer.broker import broker_error, connect
from producer.cli.models import app
from tasks.models import collect_now

KEEP = 5


def register(_main: typer.Typer) -> None:
    """The command below has joined ``celeriac models``."""


@app.command()
def gc(
    keep: Annotated[
        int | None, typer.Option(
            min=1, help=f"Newest versions of each model that stay; by default [models] "
            f"keep_versions, or {KEEP}.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Retire versions that no alias and no work names; delete those retired an hour ago."""
    settings = get_settings()
    number = keep or settings.models.keep_versions or KEEP
    try:
        found = collect_now(connect(settings), number, dry_run=dry_run)
    except redis.RedisError as error:
        raise broker_error(error, settings.broker_url) from error
    would = "would be " if dry_run else ""
    _say(f"{would}retired; their files go an hour later", found.retire)
    _say(f"{would}deleted", found.delete)
    _say(f"{would}restored: work needs them", found.restore)
    _say("retired before; their files stay for an hour", found.waiting)
    _say("not deleted, for the reason that was logged; tried again the next time", found.failed)
    for name in found.skipped:
        typer.echo(f"{name}: left as it is, for the reason that was logged")
    if not (found or found.waiting or found.failed or found.skipped):
        typer.echo(f"Nothing to delete: aliases, work, or the newest {number} hold every version.")


def _say(what: str, refs: Sequence[tuple[str, int]]) -> None:
    if refs:
        named = ", ".join(f"{name}@{version}" for name, version in refs)
        typer.echo(f"{named}: {what}")
