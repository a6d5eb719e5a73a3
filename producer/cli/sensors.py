"""``celeriac sensors``: readings from a file, and what is known of sensors."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from celeriac import errors
from celeriac.reports import charts
from producer.cli import terminal

app = typer.Typer(no_args_is_help=True, help="Readings of sensors, their alarms and analyses.")

MOST_ERRORS = 10
"""That are shown of one file."""

Sensor = Annotated[str, typer.Argument(help="Name of the sensor.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(main: typer.Typer) -> None:
    """Add ``celeriac sensors`` to the command."""
    main.add_typer(app, name="sensors")


@app.command()
def ingest(
    source: Annotated[
        Path, typer.Argument(help="A .csv or .jsonl file with sensor, at, and value or values.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Judges values; without it, the robust detector does.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="A reading with a higher score is an anomaly.")
    ] = None,
    values: Annotated[
        str, typer.Option(help="CSV: the columns with numbers, as temp,humid.")
    ] = "value",
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer.")] = False,
) -> None:
    """Take the readings of a file, and tell the anomalies among them."""
    from producer.applications.sensors import Answer, Sensors

    counts: Counter[str] = Counter()
    with _client() as client:
        sensors = Sensors(client)
        lines = enumerate(_readings(source, values.split(",")), start=1)
        while block := list(islice(lines, client.settings.sensors.max_readings)):
            answers = sensors.ingest(
                [reading for _, reading in block], model=model, threshold=threshold
            )
            for (number, _), answer in zip(block, answers, strict=True):
                if isinstance(answer, Answer):
                    counts["duplicates" if answer.duplicate else "accepted"] += 1
                    counts["anomalies"] += bool(answer.anomaly)
                else:
                    counts["errors"] += 1
                _tell(number, answer, counts, as_json=as_json)
    if not as_json:
        typer.echo(
            f"{counts['accepted']:,} readings were taken, {counts['duplicates']:,} had come "
            f"before, {counts['errors']:,} are wrong; {_anomalies(counts['anomalies'])} among them"
        )
    if counts["errors"]:
        raise typer.Exit(1)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The sensors, those first that were heard of last."""
    from producer.applications.sensors import Sensors

    with _client() as client:
        sensors = Sensors(client)
        found, count = sensors.sensors(limit), sensors.count()
    if as_json:
        _print([one.to_wire() for one in found])
        return
    if not found:
        typer.echo("no sensor has sent a reading; `celeriac sensors ingest FILE` takes some")
        return
    headings = ("sensor", "last reading", "values", "readings", "anomalies", "alarm")
    terminal.show_rows(headings, ((
        one.sensor, terminal.moment(one.last_at), _numbers(one.last_values), f"{one.readings:,}",
        f"{one.anomalies:,}",
        f"since {terminal.moment(one.alarm.opened_at_s)}" if one.alarm else "",
    ) for one in found))
    if count > len(found):
        typer.echo(f"{count - len(found):,} more; --limit shows them")


@app.command()
def show(sensor: Sensor, as_json: AsJson = False) -> None:
    """One sensor: its alarm, and the newest of its analyses."""
    from producer.applications.sensors import Sensors

    with _client() as client:
        sensors = Sensors(client)
        view, analyses = sensors.sensor(sensor), sensors.analyses(sensor, 5)
    if as_json:
        _print({**view.to_wire(), "analyses": analyses})
        return
    typer.echo(
        f"{view.sensor}: {view.readings:,} readings, {_anomalies(view.anomalies)}; the last at "
        f"{terminal.moment(view.last_at)}: {_numbers(view.last_values)}"
    )
    if view.alarm:
        typer.echo(
            f"an alarm is open since {terminal.moment(view.alarm.opened_at_s)}: score "
            f"{charts.number(view.alarm.peak)}, threshold {view.alarm.threshold:g}"
        )
    for one in analyses:
        for line in _analysis(one):
            typer.echo(line)
    if not analyses:
        typer.echo("no batch of it has been analysed yet")


@app.command()
def alarms(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Alarms that opened and closed, the newest first."""
    from producer.applications.sensors import Sensors

    with _client() as client:
        found = Sensors(client).alarms(limit)
    if as_json:
        _print([asdict(one) for one in found])
        return
    if not found:
        typer.echo("no alarm has opened")
        return
    headings = ("sensor", "event", "opened", "closed", "highest score", "threshold")
    terminal.show_rows(headings, ((
        one.sensor, one.event, terminal.moment(one.opened_at_s),
        terminal.moment(one.closed_at_s) if one.closed_at_s else "", charts.number(one.peak),
        f"{one.threshold:g}",
    ) for one in found))


@app.command()
def page(
    sensor: Sensor,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
) -> None:
    """Write a page about one sensor: a single HTML file that asks for nothing from anywhere."""
    from celeriac.applications.sensors.page import render
    from producer.applications.sensors import Sensors

    with _client() as client:
        sensors = Sensors(client)
        view = sensors.sensor(sensor)
        analyses = sensors.analyses(sensor, 1_000)
        happened = [asdict(one) for one in sensors.alarms(1_000) if one.sensor == sensor]
    output.write_bytes(render(view.to_wire(), analyses, happened))
    typer.echo(f"{output} is written")


def _readings(source: Path, columns: list[str]) -> Iterator[Any]:
    """Readings of a file; what is wrong with one is told by who takes it."""
    if source.suffix not in (".csv", ".jsonl"):
        raise errors.DatasetError(f"{source}: readings come from a .csv or a .jsonl file")
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:  # as Excel writes it, too
            if source.suffix == ".jsonl":
                yield from (_decoded(line) for line in file if line.strip())
                return
            rows = csv.DictReader(file)
            missing = {"sensor", *columns} - set(rows.fieldnames or ())
            if missing:
                raise errors.DatasetError(
                    f"{source}: no column {', '.join(sorted(missing))}; it has: "
                    f"{', '.join(rows.fieldnames or ())}; --values names the columns with numbers"
                )
            yield from (_of_row(row, columns) for row in rows)
    except FileNotFoundError as error:
        raise errors.UnreadableFile(f"{source}: no such file") from error
    except OSError as error:
        raise errors.UnreadableFile(
            f"{source}: cannot be read: {error.strerror or error}"
        ) from error
    except (UnicodeError, csv.Error) as error:
        raise errors.UnreadableFile(f"{source}: cannot be read: {error}") from error


def _decoded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line.strip()[:80]


def _of_row(row: dict[str, str | None], columns: list[str]) -> dict[str, Any]:
    numbers = [_number(row.get(name)) for name in columns]
    reading: dict[str, Any] = {"sensor": row["sensor"]}
    reading |= {"value": numbers[0]} if len(numbers) == 1 else {"values": numbers}
    if "at" in row:  # what lacks its time in a file with times is not of now
        reading["at"] = _number(row["at"]) if row["at"] else ""
    return reading


def _number(text: str | None) -> Any:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _tell(number: int, answer: Any, counts: Counter[str], *, as_json: bool) -> None:
    if as_json:
        told = answer.to_wire()
        told = {"error": told} if isinstance(answer, errors.CeleriacError) else told
        sys.stdout.write(json.dumps(told) + "\n")
    elif isinstance(answer, errors.CeleriacError):
        if counts["errors"] <= MOST_ERRORS:
            typer.echo(f"reading {number}: {answer.message}", err=True)
    elif answer.anomaly and not answer.duplicate:
        score = charts.number(answer.score)
        typer.echo(f"{terminal.moment(answer.at)} {answer.sensor}: score {score}")


def _analysis(one: dict[str, Any]) -> Iterator[str]:
    if "error" in one:
        yield f"batch {one['number']}: {one['error']} ({one['readings']:,} readings)"
        return
    gaps = f", {one['gap_count']} missing periods" if one["gap_count"] else ""
    yield (
        f"batch {one['number']}, {one['readings']:,} readings from {one['from']} to {one['to']}: "
        f"{_anomalies(one['anomalies'])}{gaps}"
    )
    for channel in one["channels"]:
        trend = channel["trend"]
        rises = (
            "" if trend is None or trend["direction"] == "none"
            else f", {trend['direction']} by {charts.number(abs(trend['slope_per_hour']))} an hour"
        )
        shown = {
            name: charts.number(channel[name]) for name in ("mean", "median", "mode", "min", "max")
        }
        yield (
            f"  mean {shown['mean']}, median {shown['median']}, mode {shown['mode']}, from "
            f"{shown['min']} to {shown['max']}{rises}"
        )


def _anomalies(count: int) -> str:
    return "1 anomaly" if count == 1 else f"{count:,} anomalies"


def _client() -> Any:
    from producer.client import Client

    return Client()


def _numbers(values: list[float]) -> str:
    shown = ", ".join(map(charts.number, values[:4]))
    return shown + (", ..." if len(values) > 4 else "")


def _print(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")
