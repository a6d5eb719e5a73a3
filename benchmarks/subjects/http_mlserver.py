"""MLServer with adaptive batching: up to 32 items, or what comes within 2 ms."""

from __future__ import annotations

import os

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.subjects.portable import model


class Model(MLModel):
    async def load(self) -> bool:
        self.answers = model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        codec = StringCodec if os.environ["BENCH_MODEL"] == "text" else NumpyCodec
        found = self.answers(codec.decode_input(payload.inputs[0]))
        labels = [one["label"] for one in found]
        label = (
            StringCodec.encode_output("label", labels) if isinstance(labels[0], str)
            else NumpyCodec.encode_output("label", np.asarray(labels)[:, None])
        )
        probabilities = np.asarray([one["probability"] for one in found])[:, None]
        return InferenceResponse(
            model_name=self.name,
            outputs=[label, NumpyCodec.encode_output("probability", probabilities)],
        )
