"""The application: asks the model through Celeriac, decides by ``decision.py``.

python app.py one '{"alcohol": 13.2, ...}'      one item, in real time
python app.py many wines.csv out                a dataset, by the batch workers
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from decision import Decision, Policy, decide, failed

from celeriac import errors
from producer import Client

MODEL = "wine"
BATCH_TIMEOUT_S = 600.0


class Application:
    """Decisions over one client. Give it a ``FakeClient`` in tests."""

    def __init__(self, client: Any, policy: Policy | None = None) -> None:
        self._client = client
        self._policy = policy or Policy()

    def one(self, item: dict[str, float]) -> Decision:
        """The decision for one item, in milliseconds. Raises errors of Celeriac, as they come."""
        answer = self._client.predict(MODEL, item)
        return decide(answer.label, answer.probability, self._policy)

    def some(self, items: Iterable[dict[str, float]]) -> list[Decision]:
        """Many at once, in their order; a bad item harms no other."""
        answers = self._client.predict_many(MODEL, items, return_errors=True)
        return [
            failed(one.message) if isinstance(one, errors.CeleriacError)
            else decide(one.label, one.probability, self._policy)
            for one in answers
        ]

    def dataset(self, source: str, output: str) -> dict[str, int]:
        """A whole file, by all batch workers; how often each decision was made.

        The job goes on if this process ends; the same call again continues it.
        """
        job = self._client.submit_dataset(source, MODEL, output)
        status = job.wait(BATCH_TIMEOUT_S)
        if status.state not in ("completed", "completed_with_errors"):
            raise errors.JobFailed(f"job {status.id} is {status.state}: {status.error}")
        counts = {"accept": 0, "ask": status.rows_failed}
        answers = job.results()
        for label, probability in zip(
            answers["prediction"].to_pylist(), answers["probability"].to_pylist(), strict=True
        ):
            counts[decide(label, probability, self._policy).action] += 1
        return counts


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("one")
    one.add_argument("item", help="as JSON")
    many = commands.add_parser("many")
    many.add_argument("source")
    many.add_argument("output", help="a new folder")
    words = parser.parse_args()
    try:
        with Client() as client:
            application = Application(client)
            if words.command == "one":
                print(json.dumps(asdict(application.one(json.loads(words.item)))))
            else:
                print(json.dumps(application.dataset(words.source, words.output)))
    except json.JSONDecodeError as error:
        print(f"the item is not valid JSON: {error}", file=sys.stderr)
        return 1
    except errors.CeleriacError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
