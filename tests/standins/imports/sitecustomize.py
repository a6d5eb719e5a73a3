"""Notes who imports torch, and what CUDA would see then: a line of JSON in ``STAND_IN_IMPORTS``."""

import json
import os
import pathlib
import sys


class _Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            seen = {key: value for key, value in os.environ.items() if key.startswith("CUDA_")}
            said = {"pid": os.getpid(), "argv": sys.argv, **seen}
            with pathlib.Path(os.environ["STAND_IN_IMPORTS"]).open("a") as file:
                file.write(json.dumps(said) + "\n")


if "STAND_IN_IMPORTS" in os.environ:
    sys.meta_path.insert(0, _Watch())
