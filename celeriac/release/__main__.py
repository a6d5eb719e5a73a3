"""``python -m celeriac.release ROOT NAME VERSION``: the process that checks a version.

Options come as JSON on stdin, the result leaves as JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import Scorer


def main(arguments: Sequence[str]) -> int:
    """The checking process. Whatever a library prints goes to stderr."""
    root, name, version = arguments
    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        try:
            options = LoadOptions(**json.load(sys.stdin))
            Scorer.load(Registry(Path(root)), name, int(version), options).check_golden()
            answer: dict[str, Any] = {"ok": True}
        except errors.CeleriacError as error:
            answer = {"error": error.to_wire()}
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises
            refused = errors.PromotionRefused(
                f"{name}@{version}: checking it raised {errors.told(error)}"
            )
            answer = {"error": refused.to_wire()}
        result.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
