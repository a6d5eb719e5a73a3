"""``celeriac moderation``: decide on posts, review what is uncertain, explain what was decided."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac import errors
from producer.cli import terminal

if TYPE_CHECKING:
    from celeriac.applications.moderation.decision import Reason
    from celeriac.applications.moderation.policy import Policy
    from producer.applications.moderation import Moderator

app = typer.Typer(no_args_is_help=True, help="Content moderation of texts and images.")

PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="Policy file. Default: [moderation] policy.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(help="Id of the decision.")]


def register(main: typer.Typer) -> None:
    """Add ``celeriac moderation``."""
    main.add_typer(app, name="moderation")


@app.command()
def check(
    text: Annotated[str | None, typer.Argument(help="The text of the post.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image of the post; may be repeated.")
    ] = None,
    id: Annotated[str, typer.Option(help="Your own name of the post.")] = "",
    policy: PolicyOption = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="Seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Decide on one post: a text, images, or both. The exit code is 0, whatever is decided."""
    images = [_read(path) for path in image or []]
    with _moderator(policy) as moderator:
        found = moderator.moderate(text, images, id=id, timeout_s=timeout_s)
    if as_json:
        terminal.print_json(found)
        return
    queued = {None: "", True: "  (waits for a review)", False: "  (the review queue is full)"}
    typer.echo(f"{found.decision}{queued[found.queued]}")
    for reason in found.reasons:
        typer.echo(f"- {told(reason)}")
    for score in found.scores:
        typer.echo(f"  {score.part}: {score.category} {score.score:.3f} ({score.model})")
    typer.echo(f"({found.policy}; celeriac moderation explain {found.id})")


@app.command("policy")
def show_policy(
    file: Annotated[Path | None, typer.Argument(help="Default: [moderation] policy.")] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a policy to begin with, and leave.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a policy file, and say what it means."""
    from celeriac.applications.moderation.policy import EXAMPLE

    if example:
        sys.stdout.write(EXAMPLE.read_text(encoding="utf-8"))
        return
    policy = _policy(file)
    if as_json:
        terminal.print_json(policy.model_dump())
        return
    _print_policy(policy)


@app.command()
def explain(id: Id, as_json: Json = False) -> None:
    """Why a post was decided so: scores, thresholds, versions; and what people said."""
    with _moderator(None) as moderator:
        found = moderator.explain(id)
    record = found.record
    if as_json:
        terminal.print_json({
            "record": record, "reviews": found.reviews,
            "policy": found.policy and found.policy.model_dump(),
        })
        return
    post = f", post {shown(record.post)}" if record.post else ""
    typer.echo(f"{record.decision}, {record.at}, policy {record.policy}{post}")
    for reason in record.reasons:
        typer.echo(f"- {told(reason)}")
    for score in record.scores:
        typer.echo(f"  {score.part}: {score.category} {score.score:.4f} ({score.model})")
    for part, digest in record.digests.items():
        typer.echo(f"  {part}: {digest}")
    for human in found.reviews:
        told_by = f"by {shown(human.by)}, {human.at}  {shown(human.note, 2_000)}"
        typer.echo(f"reviewed: {human.reviewed}, {told_by}".rstrip())


@app.command()
def archive(
    source: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file of posts.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    policy: PolicyOption = None,
    before: Annotated[
        Path | None, typer.Option(help="Output of an earlier run: say what has changed.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Empty: there is none.")] = "text",
    image_column: Annotated[
        str, typer.Option(help="Column of paths beside the archive, with | between.")
    ] = "",
    id_column: Annotated[str, typer.Option(help="Default: the number of the row.")] = "",
    as_json: Json = False,
) -> None:
    """Decide on every post of an archive with the batch workers; waits until it is done."""
    from celeriac.applications.moderation.archive import Columns
    from producer.applications.moderation.archive import moderate_archive
    from producer.client import Client

    columns = Columns(
        text=text_column or None, images=image_column or None, id=id_column or None
    )
    with Client() as client:
        found = moderate_archive(
            client, source, output, _policy(policy), columns=columns, before=before
        )
    if as_json:
        terminal.print_json(found)
        return
    counts = ", ".join(f"{count:,} {decision}" for decision, count in found.decisions.items())
    failed = f", {found.failed:,} not decided" if found.failed else ""
    typer.echo(f"{found.rows:,} posts by {found.policy}: {counts}{failed}")
    for model, version in found.models.items():
        again = "scores of the run before" if model in found.reused else "scored"
        typer.echo(f"  {version}: {again}")
    if before is not None:
        typer.echo(f"compared with {found.compared_with}: {'; '.join(found.because) or 'the same'}")
        for change, count in found.changes.items():
            typer.echo(f"  {change}: {count:,}")
        if not found.changes:
            typer.echo("  no decision has changed")
        if found.added or found.removed:
            typer.echo(f"  {found.added:,} posts are new, {found.removed:,} are gone")
    typer.echo(f"({output}/decisions.parquet)")


@app.command()
def reviews(
    most: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")] = 20,
    as_json: Json = False,
) -> None:
    """What waits for somebody to look at it, the oldest first."""
    with _moderator(None) as moderator:
        found = moderator.reviews(most)
        count = moderator.count_reviews()
    if as_json:
        for review in found:
            terminal.print_json(review)
        return
    for review in found:
        at = datetime.fromtimestamp(review.at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")
        typer.echo(f"{review.id}  {at}  {shown(review.record.post)}".rstrip())
        for reason in review.record.reasons:
            typer.echo(f"  - {told(reason)}")
        if review.text:
            typer.echo(f"  {shown(review.text)}")
    if not found:
        typer.echo("no post waits for somebody to look at it")
        return
    typer.echo(f"({len(found)} of {count}; celeriac moderation decide ID allow|block)")


@app.command("decide")
def decide(
    id: Id,
    decision: Annotated[str, typer.Argument(help="allow or block.")],
    category: Annotated[
        list[str] | None, typer.Option(help="That it does belong to; may be repeated.")
    ] = None,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    by: Annotated[str, typer.Option(help="Who. Default: this user.")] = "",
) -> None:
    """Settle a review. The first who does so wins."""
    with _moderator(None) as moderator:
        label = moderator.decide(id, decision, by=by, categories=category or [], note=note)
    typer.echo(f"{id}: {label.decision}, by {label.by}")


@app.command()
def labels(
    output: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file.")],
) -> None:
    """Write what people decided as a dataset: to train the next version with, or to measure."""
    with _moderator(None) as moderator:
        count = moderator.export_labels(output)
    typer.echo(f"{count} labels in {output}")


def told(reason: Reason) -> str:
    """A reason for people."""
    if reason.kind == "score":
        return (
            f"{reason.action}: {reason.category} of {reason.part} is {reason.score:.3f}, "
            f"from {reason.threshold:g} on it is {reason.action} ({reason.model})"
        )
    if reason.kind == "block_list":
        return f"{reason.action}: {reason.part} has {reason.told!r}, which the block list names"
    if reason.kind == "unreadable":
        return f"{reason.action}: {reason.part} cannot be read: {reason.told}"
    if reason.kind == "unjudged":
        return f"{reason.action}: the policy has no category for {reason.part}"
    return f"{reason.action}: the text is empty"


def shown(text: str, most: int = 200) -> str:
    """A text on one line, without what a terminal would obey."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def _print_policy(policy: Policy) -> None:
    typer.echo(f"{policy.ref} is valid; digest {policy.digest}")
    for kind, table in (("texts", policy.texts), ("images", policy.images)):
        for name, category in table.items():
            label = "" if category.label is None else f", label {category.label!r}"
            typer.echo(
                f"{kind}: {name} by {category.model}{label}: review from {category.review:g}, "
                f"block from {category.block:g}"
            )
    for name in ("allow", "block", "allow_images", "block_images"):
        typer.echo(f"{name}: {len(getattr(policy.lists, name)):,} entries")


def _policy(file: Path | None) -> Policy:
    from celeriac.applications.moderation.policy import read_policy
    from celeriac.settings import get_settings

    named = get_settings().moderation.policy
    return read_policy(file or (Path(named) if named else None))


@contextmanager
def _moderator(policy: Path | None) -> Iterator[Moderator]:
    from producer.applications.moderation import Moderator
    from producer.client import Client

    with Client() as client, Moderator(client, policy) as moderator:
        yield moderator


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.RequestError(f"the image {path} cannot be read: {error.strerror}") from error
