"""``celeriac drift status``: how the single items of each version stand."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from celeriac import errors
from celeriac.drift import standing
from celeriac.drift.standing import FeatureStanding, Standing
from celeriac.messages import ModelRef
from celeriac.settings import Settings
from celeriac.tables import Fitted
from producer.broker import Broker
from producer.jobs import redis_errors
from workers.cli.status import duration

MOST_FEATURES = 12
"""Of a version; those that drift come first."""
LATE_LOOKS = 12
"""Looks that the watch may be late."""
_ORDER = {"broken": 0, "drift": 1, "stable": 2, "not_enough_data": 3}
_COLOURS = {"broken": "red", "drift": "red", "stable": "green"}
_KINDS = {"data_quality": "broken data", "data_drift": "drift"}


def fetch(settings: Settings, model: str | None) -> list[Standing]:
    """Of all versions, or of those of a model (or of one: NAME@VERSION). Raises BrokerError,
    RequestError."""
    ref = None if model is None else ModelRef.parse(model)
    if ref is not None and "@" in str(model) and ref.version is None:
        raise errors.RequestError(f"{model}: give a version by its number, or none for all")
    with Broker(settings) as broker, redis_errors(broker):
        found = standing.load_all(broker.redis)
    if ref is None:
        return found
    some = [
        one for one in found
        if one.model == ref.name and (ref.version is None or ref.version == one.version)
    ]
    if not some and found:
        raise errors.RequestError(
            f"{model} is not watched; watched are: {', '.join(one.ref for one in found)}"
        )
    return some


def show(found: list[Standing], settings: Settings, now_s: float) -> None:
    """Print them."""
    console = Console(highlight=False)
    if not settings.drift.enabled:
        console.print("Single items are not watched: [drift] enabled is false", markup=False)
    if not found:
        console.print(
            "Nothing is watched yet. The watch runs on the maintenance role, sent by beat;\n"
            "`celeriac up` starts both."
        )
        return
    watched = [one for one in found if one.state != "no_profile"]
    if any(one.features for one in watched):
        console.print(Fitted(_table(watched, now_s)))
    for one in found:
        for line in _sentences(one, now_s):
            console.print(line, markup=False)
    newest_s = max(one.watched_at_s for one in found)
    if now_s - newest_s > LATE_LOOKS * settings.drift.bucket_s:
        console.print(
            f"mind: the watch was here {duration(now_s - newest_s)} ago; are beat and the "
            "maintenance role up?", markup=False,
        )


def _table(found: list[Standing], now_s: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("model", "left"), ("feature", "left"), ("items", "right"),
                          ("distance", "right"), ("of", "right"), ("state", "left"),
                          ("since", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for one in found:
        for feature in _ranked(one)[:MOST_FEATURES]:
            table.add_row(*_line(one, feature, now_s))
    return table


def _ranked(one: Standing) -> list[FeatureStanding]:
    return sorted(one.features, key=lambda feature: (
        _ORDER.get(feature.state, 9), -(feature.distance or 0) / (feature.threshold or 1)
    ))


def _line(one: Standing, feature: FeatureStanding, now_s: float) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    colour = _COLOURS.get(feature.state, "yellow")
    words = feature.state.replace("_", " ")
    return (
        one.ref, escape(feature.name), f"{feature.rows:,}", number(feature.distance),
        number(feature.threshold), f"[{colour}]{words}[/]",
        duration(max(0.0, now_s - feature.since_s)),
    )


def _sentences(one: Standing, now_s: float) -> list[str]:
    if one.state == "no_profile":
        return [f"{one.ref} was registered without a reference: nothing to compare with"]
    if one.looked_at_s is None:
        said = [f"{one.ref}: too few items have come to say anything"]
    else:
        said = [f"{one.ref}: {one.rows:,} items, looked at {duration(now_s - one.looked_at_s)} ago"]
    said += _filling(one)
    if one.counted_share < 0.995:
        said[0] += f"; {one.counted_share:.0%} of those that came are counted"
    if len(one.features) > MOST_FEATURES:
        said.append(f"  and {len(one.features) - MOST_FEATURES} more features")
    for kind, episode in one.episodes.items():
        names = ", ".join(episode.features[:5]) + (", ..." if len(episode.features) > 5 else "")
        said.append(
            f"  {_KINDS[kind]} for {duration(now_s - episode.opened_at_s)}: {names}"
        )
    said += [f"  {feature.name}: {feature.note}" for feature in one.features if feature.note]
    if one.ended and not one.episodes:
        last = one.ended[0]
        said.append(
            f"  last: {_KINDS[last.kind]} of {', '.join(last.features[:5])}, for "
            f"{duration(last.closed_at_s - last.opened_at_s)}, ended "
            f"{duration(now_s - last.closed_at_s)} ago"
        )
    return said


def _filling(one: Standing) -> list[str]:
    if one.full_in_s is None:
        return []
    so_far = f"  {one.items:,} of the {one.window_rows:,} items of a window;"
    pace = "  at their average pace since the first one, it is"
    if one.fills:
        return [so_far, f"{pace} full in {duration(one.full_in_s)}"]
    return [
        so_far, f"{pace} never full, since counts",
        "  are dropped before: a smaller [drift] window_rows would be",
    ]


def status(
    model: str | None = typer.Argument(None, help="NAME or NAME@VERSION. Without: all."),
    json_output: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Show whether the single items of late look like what each version was made for.

    Exit code 3 if something drifts or is broken.
    """
    import json
    import time

    from celeriac.settings import load_settings

    settings = load_settings()
    found = fetch(settings, model)
    if json_output:
        typer.echo(json.dumps([one.shown() for one in found], indent=1))
    else:
        show(found, settings, time.time())
    if any(one.state in {"broken", "drift"} for one in found):
        raise typer.Exit(3)
