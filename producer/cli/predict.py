"""``celeriac predict MODEL ITEM...``: single items from the command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from celeriac import errors

if TYPE_CHECKING:
    from celeriac.messages import Prediction


class Output(StrEnum):
    text = "text"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("predict")(predict)


def predict(
    model: str = typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS."),
    items: list[str] = typer.Argument(help="Texts to predict; - reads one item per line."),
    as_json: bool = typer.Option(
        False, "--json", help="Items are JSON: numbers, lists, dicts, quoted texts."
    ),
    output: Output = typer.Option(Output.text, "--output", help="text, or one JSON object a line."),
    timeout_s: float = typer.Option(
        None, "--timeout-s", help="Seconds for all items together; default: [realtime] timeout_s."
    ),
) -> None:
    """Predict single items and print the answers in their order.

    Example: celeriac predict reviews "Best coffee I ever bought"
    """
    from producer.client import Client

    values = list(read_items(items, as_json))
    with Client() as client:
        started = time.perf_counter()
        answers = client.predict_many(model, values, timeout_s=timeout_s, return_errors=True)
        took_ms = (time.perf_counter() - started) * 1000
    failed = 0
    for answer in answers:
        if isinstance(answer, errors.CeleriacError):
            failed += 1
        line = as_line(answer) if output is Output.json else as_text(answer)
        sys.stdout.write(line + "\n")
    if output is Output.text and answers:
        sys.stdout.write(summary(answers, took_ms) + "\n")
    if failed:
        sys.stderr.write(f"celeriac: {failed} of {len(answers)} items have no prediction\n")
        raise typer.Exit(1)


def read_items(arguments: list[str], as_json: bool) -> Iterator[Any]:
    """The items that the arguments stand for. Raises InvalidItem for what is not JSON."""
    for argument in arguments:
        lines = (line.rstrip("\r\n") for line in sys.stdin) if argument == "-" else [argument]
        for line in lines:
            if argument != "-" or line:
                yield parse(line) if as_json else line


def parse(text: str) -> Any:
    """The JSON value that ``text`` is. Raises InvalidItem."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise errors.InvalidItem(
            f"{text[:80]!r} is not JSON ({error}); a text in JSON has double quotes"
        ) from error


def as_line(answer: Prediction | errors.CeleriacError) -> str:
    """One answer as JSON, the same as on the wire."""
    wire = {"error": answer.to_wire()} if isinstance(answer, errors.CeleriacError) else (
        answer.to_wire()
    )
    return json.dumps(wire, ensure_ascii=False)


def as_text(answer: Prediction | errors.CeleriacError) -> str:
    """One answer for people: its label and probability, or its value."""
    if isinstance(answer, errors.CeleriacError):
        return f"error: {answer.message}"
    if answer.label is None:
        return _shown(answer.value)
    if answer.probability is None:
        return _shown(answer.label)
    return f"{_shown(answer.label)}  {_shown(answer.probability)}"


def summary(answers: list[Any], took_ms: float) -> str:
    """Which version answered, and how long all of it took."""
    versions = sorted({
        f"{answer.model}@{answer.version}"
        for answer in answers
        if not isinstance(answer, errors.CeleriacError)
    })
    count = f"{len(answers)} items" if len(answers) > 1 else "1 item"
    return f"({', '.join(versions) or 'no answer'}, {count}, {took_ms:.1f} ms)"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(one) for one in value) + "]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
