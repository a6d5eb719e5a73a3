"""``celeriac drift mended``: a person says that the data of a model are sound again."""

from __future__ import annotations

from typing import Annotated

import typer

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef
from producer.cli.jobs import open_broker
from producer.client import who


def mended(
    model: Annotated[str, typer.Argument(help="NAME, or NAME@VERSION: then only that version.")],
    why: Annotated[str, typer.Option(help="What was done, for the history.")] = "",
) -> None:
    """Close what is open of broken data: you have mended them, or they are as they should be.

    Items that came before are looked at no more, so the window fills anew.
    """
    from tasks.drift_mended import close_breaches

    ref = ModelRef.parse(model)
    if ref.alias not in (None, CHAMPION) or model.endswith(f"@{CHAMPION}"):
        raise errors.RequestError(f"{model}: name the model, or one of its versions by its number")
    said = f"mended, says {who()}" + (f": {why}" if why else "")
    with open_broker() as broker:
        for closed in close_breaches(broker, ref, why=said):
            typer.echo(f"{closed}: the data are mended; its window of items fills anew")
