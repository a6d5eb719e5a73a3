"""``celeriac models``: what is registered and what serves, from anywhere that reaches Redis.

Promotion and rollback are tasks on the maintenance queue, so this half needs neither the registry
nor a model library. In a checkout, ``workers.cli.models`` adds what works on the registry folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import redis
import typer

from celeriac import errors
from celeriac.messages import CHAMPION, MAINTENANCE_QUEUE, ModelRef, check_model_name
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo, fetch
from celeriac.registry.manifest import InputSchema, OutputSchema, Serving
from celeriac.reports.charts import number
from celeriac.settings import get_settings
from producer.broker import Broker, broker_error
from producer.cli import terminal
from producer.cli.jobs import open_broker
from producer.client import Client, who
from producer.jobs import redis_errors
from producer.serving import read_heartbeats, read_serving, wait_served

app = typer.Typer(help="List, show, promote and roll back models.", no_args_is_help=True)

Local = Callable[[str, str, str, str, bool], dict[str, Any]]
"""Takes ``promote`` or ``rollback``, the model, who, why and whether a slower version may come;
works on the registry folder."""

_local: Local | None = None

WAIT_S = 10.0
"""How long a promotion waits for the workers to follow."""

Why = Annotated[str, typer.Option(help="Reason, for the history.")]
LocalFlag = Annotated[
    bool, typer.Option("--local", help="Work on the registry folder, without Redis.")
]
Wait = Annotated[
    float, typer.Option(min=0, max=600, help="Seconds until all workers serve it, at most.")
]
_LOCAL_HINT = "in a checkout, --local works on the registry folder itself"


def register(main: typer.Typer) -> None:
    """Add ``celeriac models``."""
    main.add_typer(app, name="models")


def offer_local(local: Local) -> None:
    """Make ``--local`` work; called by the half that has the registry."""
    global _local
    _local = local


@app.command("list")
def list_models() -> None:
    """All models with the version that serves."""
    catalogue = published()
    if not catalogue.models:
        typer.echo("No model is registered. See: celeriac models register --help")
        return
    terminal.show_rows(
        ("MODEL", "SERVES", "VERSIONS", "TAKES", "ANSWERS", "DEVICE", "METRICS"),
        map(_list_row, catalogue.models.values()),
    )


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
) -> None:
    """One model: its versions, what it takes, and what it answers."""
    ref = ModelRef.parse(model)
    catalogue = published()
    info = catalogue.models.get(ref.name)
    if info is not None and info.versions and "@" not in model and CHAMPION not in info.aliases:
        ref = ModelRef(name=ref.name, version=max(info.versions))  # nothing serves yet
    version = catalogue.resolve(ref)
    _show(catalogue.models[ref.name], version)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="NAME@VERSION or NAME@ALIAS.")],
    why: Why = "",
    local: LocalFlag = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it is slower than the champion.")
    ] = False,
    wait_s: Wait = WAIT_S,
) -> None:
    """Check a version and let it serve."""
    ref = ModelRef.parse(model)
    result = _run("promote", str(ref), why, local, force)
    if not result["changed"]:
        typer.echo(f"{result['model']}@{result['version']} serves already")
        return
    before = f"; before it: {result['previous']}" if result["previous"] else ""
    typer.echo(f"{result['model']}@{result['version']} is promoted{before}")
    tell_latency(result)
    if not local:
        _tell_spread(result, wait_s)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="NAME.")],
    why: Why = "",
    local: LocalFlag = False,
    wait_s: Wait = WAIT_S,
) -> None:
    """Let the version before the last promotion serve again."""
    result = _run("rollback", check_model_name(model), why, local)
    typer.echo(f"{result['model']}@{result['version']} serves again, instead of {result['from']}")
    if not local:
        _tell_spread(result, wait_s)


@app.command()
def status(model: Annotated[str, typer.Argument(help="NAME.")]) -> None:
    """Which worker serves which version of a model."""
    version = published().resolve(ModelRef.parse(check_model_name(model)))
    with open_broker() as broker, redis_errors(broker):
        workers = read_serving(broker.redis, model, version.device)
    typer.echo(f"The champion is {model}@{version.version}.")
    if not workers:
        typer.echo(f"No worker that serves single items on the {version.device} is up.")
        return
    terminal.show_rows(("WORKER", "ROLE", "SERVES", "NOTE"), (
        (worker.hostname, worker.role, str(worker.version or "-"), worker.kept_back)
        for worker in workers
    ))


def tell_latency(result: dict[str, Any]) -> None:
    """What was measured of a version, beside the champion if there is another."""
    new, old = result.get("latency"), result.get("champion_latency")
    if not new:
        return
    beside = ""
    if old:
        beside = (
            f"; with the champion before {number(old['one_ms'])} ms, "
            f"{number(old['batch_ms'])} ms"
        )
    typer.echo(
        f"one item takes {number(new['one_ms'])} ms, a batch of {new['batch_items']:.0f} "
        f"{number(new['batch_ms'])} ms{beside}"
    )
    if result.get("uncompared"):
        typer.echo(f"not compared with the champion before: {result['uncompared']}")


def _tell_spread(result: dict[str, Any], wait_s: float) -> None:
    name, version = result["model"], result["version"]
    with open_broker() as broker:
        try:
            info = fetch(broker.redis).models[name].versions[version]
            spread = wait_served(broker.redis, name, version, info.device, wait_s,
                                 created_at=info.created_at)
        except (redis.RedisError, KeyError) as error:
            typer.echo(f"not known which workers serve it: {error}")
        else:
            typer.echo(spread.told())


def _run(action: str, model: str, why: str, local: bool, force: bool = False) -> dict[str, Any]:
    if not local:
        return _through_queue(action, model, why, force)
    if _local is None:
        raise errors.RequestError(
            "--local works where the registry is: in a checkout of the repository"
        )
    return _local(action, model, who(), why, force)


def _through_queue(action: str, model: str, why: str, force: bool) -> dict[str, Any]:
    with Client() as client:
        _require_maintenance(client.broker)
        if action == "rollback":
            return client.rollback(model, why)
        try:
            return client.promote(model, why, force=force)
        except (errors.ModelNotFound, errors.VersionNotFound) as error:
            raise type(error)(error.message + _hint_of_other_registry(model)) from error


def _hint_of_other_registry(model: str) -> str:
    """Of a version that lies in the registry of these settings, but not in that of the workers."""
    root = get_settings().models.root
    ref = ModelRef.parse(model)
    if not (root / ref.name / str(ref.version)).is_dir():
        return ""
    return (
        f". It is in {root.resolve()}, so the workers have another registry: give both the same "
        "[models] root (CELERIAC_MODELS_ROOT)"
    )


def _require_maintenance(broker: Broker) -> None:
    """Raises BrokerError unless a worker of the maintenance role lives."""
    try:
        roles = {worker.get("role") for worker in read_heartbeats(broker.redis)}
    except redis.RedisError as error:
        message = broker_error(error, broker.url).message
        raise errors.BrokerError(f"{message}; {_LOCAL_HINT}") from error
    if MAINTENANCE_QUEUE not in roles:
        raise errors.BrokerError(
            "no maintenance worker runs, and it is the one that checks and promotes. Start the "
            "stack with `celeriac up`, or `celeriac worker maintenance` on the machine that has "
            "the registry; " + _LOCAL_HINT
        )


def published() -> Catalogue:
    """The catalogue. Raises BrokerError."""
    with open_broker() as broker, redis_errors(broker):
        return fetch(broker.redis)


# --- tables --------------------------------------------------------------------------------------


def _list_row(model: ModelInfo) -> list[str]:
    champion = model.aliases.get(CHAMPION)
    newest = max(model.versions, default=0)
    version = model.versions.get(champion or newest)
    serves = str(champion) if champion else "-"
    numbers = ", ".join(map(str, sorted(model.versions)[-5:]))
    if version is None:
        return [model.name, serves, numbers, "-", "-", "-", "-"]
    return [model.name, serves, numbers, takes(version.input), gives(version.output),
            version.device, _metrics(version)]


def _show(model: ModelInfo, version: VersionInfo) -> None:
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    names = [alias for alias, number in sorted(model.aliases.items()) if number == version.version]
    facts.add_row("model", f"{model.name}@{version.version}")
    facts.add_row("aliases", ", ".join(names) or "none")
    facts.add_row("format", f"{version.format}, for {_where(version)}")
    facts.add_row("takes", takes(version.input))
    if version.input.kind == "table":
        columns = (
            f"{column.name} ({column.dtype}{' or null' if column.nullable else ''})"
            for column in version.input.columns
        )
        facts.add_row("columns", terminal.plain(", ".join(columns)))
    facts.add_row("answers", terminal.plain(gives(version.output)))
    facts.add_row("served", served(version.serving))
    facts.add_row("metrics", terminal.plain(_metrics(version)) or "none")
    facts.add_row("registered", version.created_at)
    facts.add_row("description", terminal.plain(version.description) or "none")
    terminal.console().print(facts)
    typer.echo()
    terminal.show_rows(("VERSION", "ALIASES", "REGISTERED", "METRICS"), (
        _version_row(model, number) for number in sorted(model.versions, reverse=True)
    ))


def _version_row(model: ModelInfo, number: int) -> list[str]:
    version = model.versions[number]
    names = [alias for alias, of in sorted(model.aliases.items()) if of == number]
    return [str(number), ", ".join(names) or "-", version.created_at, _metrics(version)]


def takes(schema: InputSchema) -> str:
    """One phrase for what an item must be."""
    if schema.kind == "table":
        return f"{len(schema.columns)} columns"
    if schema.kind in ("array", "image"):
        return f"{schema.kind} {'x'.join(map(str, schema.shape))}"
    return {"text": "text", "any": "anything"}[schema.kind]


def gives(schema: OutputSchema) -> str:
    """One phrase for what an answer is."""
    several = f", {schema.outputs} outputs" if schema.outputs > 1 else ""
    if schema.kind == "regressor":
        return f"a number{several}"
    if schema.kind == "any":
        return "anything"
    if several:
        return f"labels{several}"
    shown = ", ".join(map(str, schema.labels[:4]))
    rest = len(schema.labels) - 4
    return f"label: {shown}{f' and {rest} more' if rest > 0 else ''}"


def served(serving: Serving) -> str:
    """One phrase for how single items are served."""
    size = serving.max_batch_size
    parts = [
        "answers are cached" if serving.cache else "answers are not cached",
        f"batches of at most {size}" if size else "batches as large as the settings allow",
        f"a batch waits up to {serving.max_wait_ms:g} ms to fill" if serving.max_wait_ms else "",
    ]
    return "; ".join(part for part in parts if part)


def _metrics(version: VersionInfo) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items())


def _where(version: VersionInfo) -> str:
    if version.asks_for is None:
        return version.device
    places = {"single items": version.device, "chunks": version.batch_device}
    stand_in = " and ".join(what for what, device in places.items() if device == "cpu")
    return f"{version.asks_for} (no worker of it is there: {stand_in} on the cpu)"
