"""Which forms are tried, by what is known of a model and a machine."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.optimize.variants import ORIGINAL, Skipped, Traits, Variant, plan


def planned(**traits: Any) -> tuple[list[str], dict[str, str]]:
    steps = plan(Traits(**traits))
    tried = [step.name for step in steps if isinstance(step, Variant)]
    return tried, {step.name: step.why for step in steps if isinstance(step, Skipped)}


CNN: dict[str, Any] = {"format": "torch", "has_convolutions": True, "has_linear_layers": True,
                       "bfloat16": True, "compiler": "/usr/bin/g++"}


@pytest.mark.parametrize(
    ("traits", "tried"),
    [
        ({"format": "echo"}, []),
        ({"format": "sklearn", "why_not_direct": "for forests"}, ["onnx"]),
        ({"format": "sklearn", "has_direct_way": True}, ["direct", "onnx"]),
        ({"format": "sklearn", "converts": False, "why_not_direct": "for forests"}, []),
        ({"format": "onnx"}, ["int8"]),
        ({"format": "onnx", "device": "gpu"}, []),
        (CNN, ["channels last", "bfloat16", "int8", "compiled", "onnx", "onnx int8"]),
        (CNN | {"bfloat16": False, "compiler": None},
         ["channels last", "int8", "onnx", "onnx int8"]),
        (CNN | {"has_convolutions": False},
         ["bfloat16", "int8", "compiled", "onnx", "onnx int8"]),
        (CNN | {"device": "gpu"}, ["bfloat16", "float16", "compiled", "onnx"]),
    ],
)
def test_what_applies(traits: dict[str, Any], tried: list[str]) -> None:
    found, skipped = planned(**traits)
    assert found == [ORIGINAL, *tried]
    assert all(skipped.values())


def test_why_not() -> None:
    _, skipped = planned(**(CNN | {"compiler": None, "bfloat16": False, "converts": False}))
    assert "compiler" in skipped["compiled"]
    assert "no instructions" in skipped["bfloat16"]
    assert "pip install" in skipped["onnx"]


def test_all_cores_are_tried_for_what_a_worker_might_get() -> None:
    steps = [step for step in plan(Traits(format="sklearn", threads=1, cores=4))
             if isinstance(step, Variant)]
    assert [(step.name, step.threads) for step in steps[-2:]] == [
        ("original, 4 threads", 4), ("onnx, 4 threads", 4)
    ]
    assert not any("threads" in name for name in planned(format="sklearn", threads=4, cores=4)[0])
    assert not any("threads" in name for name in planned(**CNN, cores=4, device="gpu")[0])


@pytest.mark.parametrize(
    ("traits", "default", "original", "direct"),
    [
        ({"has_direct_way": True}, "direct", {"direct": False}, {}),
        ({"has_direct_way": True, "recipe": {"direct": True}}, "direct", {"direct": False}, {}),
        ({"has_direct_way": True, "recipe": {"direct": False}}, ORIGINAL, {"direct": False},
         {"direct": True}),
        ({"has_direct_way": False, "why_not_direct": "for forests"}, ORIGINAL, {}, None),
        ({"has_direct_way": False, "recipe": {"direct": True}}, ORIGINAL, {}, None),
    ],
)
def test_the_shorter_way_is_the_default_and_plain_scikit_learn_the_original(
    traits: dict[str, Any], default: str, original: dict[str, Any], direct: dict[str, Any] | None
) -> None:
    known = Traits(format="sklearn", **traits)
    recipes = {step.name: step.recipe for step in plan(known) if isinstance(step, Variant)}
    assert known.default == default
    assert recipes[ORIGINAL] == original
    assert recipes.get("direct") == direct
