"""``celeriac reviews``: how reviews sound, one by one and product by product."""

from __future__ import annotations

import json
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from celeriac import errors
from celeriac.tables import Fitted
from producer.cli import terminal
from producer.cli.batch import (
    EXIT_CODES,
    LONGEST_WAIT_S,
    follow,
    planning,
    say_submitted,
    waiting,
)
from producer.cli.jobs import made_aside

if TYPE_CHECKING:
    from celeriac.applications.reviews.summary import ProductSummary, ReviewSummary
    from producer.broker import Broker
    from producer.jobs import JobHandle

SHOWN = 5
"""Products from the top, and as many from the bottom."""
READ_S = 60.0
app = typer.Typer(no_args_is_help=True, help="How reviews sound, and what products they praise.")
Model = Annotated[
    str, typer.Option("--model", "-m", help="A text model of two labels: NAME, NAME@VERSION ...")
]
Positive = Annotated[
    str | None, typer.Option(help="Its label that counts as good, if it is not plain.")
]


def register(main: typer.Typer) -> None:
    """Add ``celeriac reviews`` to the command."""
    main.add_typer(app, name="reviews")


@app.command()
def score(
    texts: Annotated[list[str], typer.Argument(help="Reviews; - reads one a line.")],
    model: Model = "reviews",
    positive: Positive = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="Seconds for all.")] = None,
) -> None:
    """Print the sentiment of each review: -1 is bad, 1 is good.

    Example: celeriac reviews score "Best coffee I ever bought"
    """
    import msgspec

    from producer.applications.reviews import Reviews
    from producer.cli.predict import read_items
    from producer.client import Client

    with Client() as client:
        found = Reviews(client, model, positive=positive).score_many(
            read_items(texts, as_json=False), timeout_s=timeout_s, return_errors=True
        )
    failed = 0
    for one in found:
        if isinstance(one, errors.CeleriacError):
            failed += 1
            line = json.dumps({"error": one.to_wire()}) if as_json else f"error: {one.message}"
        elif as_json:
            line = msgspec.json.encode(one).decode()
        else:
            line = f"{one.sentiment:+.3f}  {one.label}"
        sys.stdout.write(line + "\n")
    if failed:
        sys.stderr.write(f"celeriac: {failed} of {len(found)} reviews have no sentiment\n")
        raise typer.Exit(1)


@app.command()
def summarise(
    source: Annotated[str, typer.Argument(help="File, folder or pattern, also s3://...")],
    product: Annotated[str, typer.Option(help="Column that names the product.")],
    date: Annotated[str | None, typer.Option(help="Column with the date, for trends.")] = None,
    period: Annotated[
        Literal["day", "week", "month", "quarter", "year"],
        typer.Option(help="How long the stretches of a trend are."),
    ] = "month",
    text_column: Annotated[
        str | None, typer.Option("--text", help="Column with the review (default: the model's).")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="New folder (default: NAME-summary here).")
    ] = None,
    model: Model = "reviews",
    positive: Positive = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole summary.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0, help="Longest wait, in seconds.")
    ] = LONGEST_WAIT_S,
) -> None:
    """Score all reviews of SOURCE, and sum them up by product. Exit code as of batch submit."""
    folder = output or default_output(source)

    def submitted(broker: Broker) -> JobHandle:
        from producer.applications.reviews import Reviews
        from producer.client import Client

        with Client(settings=broker.settings) as client, planning(folder) as on_progress:
            return Reviews(client, model, positive=positive).submit(
                source, folder, product=product, date=date,
                period=period, text_column=text_column, on_progress=on_progress,
            )

    with made_aside(submitted) as handle:
        if not as_json:
            say_submitted(handle)
            code = follow(handle, timeout_s)
            if code not in EXIT_CODES.values():
                raise typer.Exit(code)
        from producer.applications.reviews import summary_of

        with waiting(handle):
            found = summary_of(handle, timeout_s if as_json else READ_S)
    _print(found, as_json)
    if not as_json:
        page = handle.output / "reviews.html"
        told = f"all of them, with plots: {page}" if page.exists() else (
            f"{page} could not be written; the maintenance worker's log says why"
        )
        sys.stdout.write(f"\n{told}\n")
    if found.rows_failed:
        raise typer.Exit(3)


def default_output(source: str) -> str:
    """``reviews-summary`` for ``data/reviews.csv.gz``. Raises RequestError for a pattern."""
    name = PurePath(source.rstrip("/")).name.partition(".")[0]
    if not name or any(sign in name for sign in "*?["):
        raise errors.RequestError(f"--output is missing: {source!r} gives no name for a folder")
    return f"{name}-summary"


def _print(found: ReviewSummary, as_json: bool) -> None:
    if as_json:
        terminal.print_json(found)
        return
    console = terminal.console()
    if found.overall is None:
        console.print("no review has an answer")
        return
    for line in _findings(found, found.overall):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(Fitted(_table(found)))


def _findings(found: ReviewSummary, overall: ProductSummary) -> list[str]:
    counts = f"{overall.reviews:,} reviews of {len(found.products):,} products"
    lines = [f"{counts}, mean sentiment {overall.mean:+.2f}{_interval(overall)}"]
    if found.date_column and overall.undated:
        lines.append(
            f"{overall.undated:,} reviews have no date that can be read in "
            f"{found.date_column!r} (2025-03-31 or Unix time); they are in no trend"
        )
    if overall.trend:
        chance = "" if overall.trend.significant else ", which may be chance"
        moving = sum(1 for one in found.products if one.trend and one.trend.significant)
        lines.append(
            f"over time {overall.trend.per_year:+.2f} a year (p = {overall.trend.p_value:.2g}"
            f"{chance}); {moving:,} products have a trend of their own"
        )
    return lines


def _table(found: ReviewSummary) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(found.product_column.upper())
    for heading in ("REVIEWS", "MEAN", "95 %", "SPREAD", found.positive.upper()):
        table.add_column(heading, justify="right")
    if found.date_column:
        table.add_column("A YEAR", justify="right")
    ranked = found.products
    cut = len(ranked) > 2 * SHOWN
    for one in [*ranked[:SHOWN], *ranked[-SHOWN:]] if cut else ranked:
        cells = [
            one.product if one.product is not None else "(no product)", f"{one.reviews:,}",
            f"{one.mean:+.2f}",
            "-" if one.low is None else f"{one.low:+.2f} to {one.high:+.2f}",
            "-" if one.spread is None else f"{one.spread:.2f}", f"{one.positive_share:.0%}",
        ]
        if found.date_column:
            cells.append(_trend(one))
        table.add_row(*cells)
        if cut and one is ranked[SHOWN - 1]:
            table.add_row("...")
    return table


def _trend(one: ProductSummary) -> str:
    if one.trend is None:
        return "-"
    return f"{one.trend.per_year:+.2f}{'*' if one.trend.significant else ''}"


def _interval(one: ProductSummary) -> str:
    return "" if one.low is None else f" (95 %: {one.low:+.2f} to {one.high:+.2f})"
