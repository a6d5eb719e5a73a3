"""``celeriac drift accuracy`` and ``feedback``: labels, and how good the answers were."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac import errors
from celeriac.messages import DEFAULT_TENANT, ModelRef
from producer.cli import terminal

if TYPE_CHECKING:
    from celeriac.drift.concept import ErrorTest
    from celeriac.drift.feedback import Accuracy, VersionAccuracy

MOST_ERRORS = 10
DAY_S = 86_400


class Step(StrEnum):
    """Over what the labels of a line are added up."""

    HOUR = "hour"
    DAY = "day"


_STEPS = {Step.HOUR: (3_600, "%Y-%m-%d %H:00"), Step.DAY: (DAY_S, "%Y-%m-%d")}


def accuracy(
    model: Annotated[str, typer.Argument(help="NAME for all versions, or NAME@VERSION.")],
    days: Annotated[int, typer.Option(min=1, max=730, help="Of the predictions of so many.")] = 30,
    by: Annotated[Step, typer.Option(help="Over what a line adds up (UTC).")] = Step.DAY,
) -> None:
    """Show how good the answers of each version were, by their labels."""
    from celeriac.drift.error_tests import read_test
    from celeriac.drift.feedback import accuracies
    from producer.cli.jobs import open_broker
    from producer.jobs import redis_errors

    name, _, number = model.partition("@")
    ref = ModelRef.parse(model)
    if number and ref.version is None:
        raise errors.RequestError(f"{model}: give a version by its number, or none for all")
    now_s = time.time()
    with open_broker() as broker, redis_errors(broker):
        found = [
            (one, read_test(broker.redis, name, one.version))
            for one in accuracies(broker.redis, name, now_s - days * DAY_S, _STEPS[by][0], now_s)
            if ref.version in {None, one.version}
        ]
    if not found:
        typer.echo(
            f"no labels of {model} for predictions of the last {terminal.counted(days, 'day')};\n"
            "they come by client.feedback(prediction_id, label) or POST /v1/feedback "
            "(docs/drift.md)"
        )
        return
    for number_of, (one, test) in enumerate(found):
        if number_of:
            typer.echo()
        _print(name, one, test, by)


def feedback(
    file: Annotated[
        Path, typer.Argument(help="CSV or JSON lines with prediction_id and label.")
    ],
    tenant: Annotated[
        str, typer.Option(help="Whose predictions they are, where the gateway asks for keys.")
    ] = DEFAULT_TENANT,
) -> None:
    """Count the labels of a file. Exit code 1 if some were refused."""
    from producer.client import Client

    counts: Counter[str] = Counter()
    with Client() as client:
        for line, prediction_id, label, is_text in _read(file):
            try:
                given = client.feedbacks.give(
                    prediction_id, label, timeout_s=client.timeout_s, tenant=tenant,
                    is_text=is_text,
                )
            except (errors.RequestError, errors.Overloaded) as error:
                counts["refused"] += 1
                if counts["refused"] <= MOST_ERRORS:
                    typer.echo(f"line {line}: {error.message}", err=True)
            else:
                counts["counted" if given.counted else "known"] += 1
    typer.echo(
        f"{counts.total():,} labels: {counts['counted']:,} counted, "
        f"{counts['known']:,} of predictions that had one, {counts['refused']:,} refused"
    )
    raise typer.Exit(int(counts["refused"] > 0))


def _read(path: Path) -> Iterator[tuple[int, str, Any, bool]]:
    """Line, id, label, and whether it is a text of CSV, of each label. Raises RequestError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (_csv if path.suffix.lower() == ".csv" else _json_lines)(path, file)
    except OSError as error:
        raise errors.RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.RequestError(f"{path}: is not UTF-8") from error
    except csv.Error as error:
        raise errors.RequestError(f"{path}: is no CSV: {error}") from error


def _csv(path: Path, file: Any) -> Iterator[tuple[int, str, Any, bool]]:
    rows = csv.DictReader(file)
    missing = {"prediction_id", "label"} - set(rows.fieldnames or ())
    if missing:
        raise errors.RequestError(
            f"{path}: has no column {' and no column '.join(sorted(missing))}; a file of labels "
            "has prediction_id and label"
        )
    for row in rows:
        yield rows.line_num, row["prediction_id"] or "", row["label"] or "", True


def _json_lines(path: Path, file: Any) -> Iterator[tuple[int, str, Any, bool]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield number, row["prediction_id"], row["label"], False
        except (ValueError, KeyError, TypeError) as error:
            raise errors.RequestError(
                f"{path}, line {number}: is no JSON object with prediction_id and label (a file "
                "that is CSV is named *.csv)"
            ) from error


def _print(name: str, found: VersionAccuracy, test: ErrorTest | None, by: Step) -> None:
    from rich.console import Console
    from rich.table import Table

    from celeriac.tables import Fitted

    console = Console(highlight=False)
    whole = found.whole
    value, interval = _cells(whole)
    console.print(
        f"[bold]{name}@{found.version}[/]  {whole.measure} {value} ({interval}) of "
        f"{whole.rows:,} labels"
    )
    console.print(_state(test), markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("predictions of", "left"), ("labels", "right"),
                           (whole.measure, "right"), ("95 % interval", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for begin_s, one in found.over_time:
        begin = datetime.fromtimestamp(begin_s, UTC).strftime(_STEPS[by][1])
        table.add_row(begin, f"{one.rows:,}", *_cells(one))
    console.print(Fitted(table))


def _cells(found: Accuracy) -> tuple[str, str]:
    form = ".3f" if found.more_is_better else ".4g"
    low, high = found.interval
    return f"{found.value:{form}}", f"{low:{form}} to {high:{form}}"


def _state(test: ErrorTest | None) -> str:
    """What the test of errors says, in one sentence."""
    if test is None:
        return (
            "not tested yet: labels are looked at every few seconds, if beat and the maintenance "
            "role are up (`celeriac status`)"
        )
    if test.usual is None:
        return f"not tested yet: {len(test.gathered):,} labels are too few to know what is usual"
    usual = f"usual is {test.usual.rate:.1%} by the {test.usual.source}"
    what = "wrong" if test.usual.far is None else f"off by more than {test.usual.far:.4g}"
    episode = test.watched.episode
    if episode is None:
        return f"answers are not {what} more often than before ({usual})"
    since = datetime.fromtimestamp(episode.opened_at_s, UTC).strftime("%Y-%m-%d %H:%M")
    return f"answers are {what} more often than before since {since} UTC ({usual})"
