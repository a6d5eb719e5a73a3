"""A request whose body is nothing but the data of the model's one input.

It has ``Inference-Header-Content-Length: 0``; the answer is binary. What the shape is follows from
the metadata and the size; for ``BYTES``, the body is one item.
"""

from __future__ import annotations

import math

import numpy as np

from celeriac import errors
from celeriac.registry.manifest import InputSchema
from producer.gateway.oip.codec import InferRequest, check_items
from producer.gateway.oip.items import inputs_of
from producer.gateway.oip.tensors import DTYPES, Tensor, from_binary


def raw_request(body: bytes, schema: InputSchema, max_items: int = 1_000) -> InferRequest:
    """The request that ``body`` stands for. Raises RequestError and PayloadTooLarge."""
    specs = inputs_of(schema)
    if len(specs) > 1:
        raise errors.RequestError(
            f"the model has {len(specs)} inputs, so the body cannot be the data of one"
        )
    (spec,) = specs
    if spec.datatype == "BYTES":
        return InferRequest(
            inputs=[Tensor(spec.name, "BYTES", (1,), [body])], binary_output=True
        )
    size = math.prod(spec.shape[1:]) * np.dtype(DTYPES[spec.datatype]).itemsize
    if not body or len(body) % size:
        raise errors.RequestError(
            f"the body is {spec.datatype} of shape {list(spec.shape)}, so it has {size:,} bytes "
            f"for each item; found {len(body):,}"
        )
    check_items(len(body) // size, max_items)
    shape = (len(body) // size, *spec.shape[1:])
    tensor = from_binary(spec.name, spec.datatype, shape, memoryview(body))
    return InferRequest(inputs=[tensor], binary_output=True)
