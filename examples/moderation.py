"""Content moderation from beginning to end.

    .venv/bin/python -m examples.moderation

It needs a running stack (``celeriac up``) whose workers serve the two models of
``python -m demo.moderation``. docs/moderation.md explains what it shows.
"""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

from PIL import Image

from celeriac.applications.moderation.archive import Columns
from producer import Client
from producer.applications.moderation import Moderator, Policy, Post, read_policy
from producer.applications.moderation.archive import moderate_archive

POSTS = [
    Post(id="1", text="Have a nice day, everybody"),
    Post(id="2", text="You are a fuck\u0456ng idi0t"),  # a Cyrillic letter, and a digit
    Post(id="3", text="Damn, that was good"),
    Post(id="4", text="B U Y  f0llowers here"),
]


def main() -> None:
    with Client(timeout_s=30) as client, Moderator(client) as moderator:
        decide_at_once(moderator)
        review(moderator)
        with tempfile.TemporaryDirectory() as folder:
            decide_again(client, Path(folder))


def decide_at_once(moderator: Moderator) -> None:
    """Text and images, in real time."""
    for post, found in zip(POSTS, moderator.moderate_many(POSTS), strict=True):
        why = "; ".join(
            f"{reason.category or reason.told} {reason.score or ''}" for reason in found.reasons
        )
        print(f"{found.decision:7} {post.text!a}  {why}")
    found = moderator.moderate("My new picture", [blue_picture(), b"no image at all"], id="5")
    print(f"{found.decision:7} a text and two files: {found.reasons[0].told}")


def review(moderator: Moderator) -> None:
    """What is uncertain waits for somebody; what they say becomes a label."""
    for waiting in moderator.reviews():
        if waiting.record.post == "3":
            moderator.decide(waiting.id, "allow", by="anna", note="praise")
            explained = moderator.explain(waiting.id)
            print(
                f"\nreviewed: {explained.record.decision} by {explained.record.policy}, "
                f"{explained.reviews[0].reviewed} by {explained.reviews[0].by}; "
                f"models {sorted({score.model for score in explained.record.scores})}"
            )
    print(f"{len(moderator.labels())} label(s) to train with")


def decide_again(client: Client, folder: Path) -> None:
    """An archive, by two versions of a policy: the second asks no model."""
    archive = folder / "posts.csv"
    with archive.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *([post.id, post.text] for post in POSTS)])
    policy = read_policy(None)
    columns = Columns(id="id")
    moderate_archive(client, archive, folder / "first", policy, columns=columns)
    again = moderate_archive(
        client, archive, folder / "second", milder(policy), columns=columns,
        before=folder / "first",
    )
    print(f"\n{', '.join(again.because)}: {again.changes}; not asked again: {again.reused}")


def milder(policy: Policy) -> Policy:
    """The next version, which lets more pass."""
    data = policy.model_dump()
    data["texts"]["toxicity"]["review"] = 0.94
    return Policy.model_validate({**data, "version": policy.version + 1})


def blue_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "navy").save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
