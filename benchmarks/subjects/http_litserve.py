"""LitServe: batches of up to 32, or what comes within 2 ms."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from benchmarks.subjects.portable import model


class Api(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self.answers = model()

    def decode_request(self, request):  # an annotation would be taken for a pydantic model
        return request["item"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return list(inputs)

    def predict(self, x: list[Any]) -> list[dict[str, Any]]:
        return self.answers(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="error",
        generate_client_file=False,
    )
