"""Which forms of a model are worth trying. Pure: what is known goes in, a plan comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

ORIGINAL = "original"
DIRECT = "direct"


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is known of a model and of this machine."""

    format: str
    device: Literal["cpu", "gpu"] = "cpu"
    threads: int = 1
    """That a worker gives the model."""
    cores: int = 1
    has_convolutions: bool = False
    has_linear_layers: bool = False
    has_direct_way: bool = False
    """``celeriac.runtimes.sklearn_direct`` knows a shorter way."""
    why_not_direct: str = ""
    converts: bool = True
    """The packages that write ONNX files are installed."""
    compiler: str | None = None
    bfloat16: bool = False
    """The processor has instructions for it."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The model has one already: it is such a form itself."""

    @property
    def default(self) -> str:
        """The name of the form that workers run the version as now."""
        is_direct = self.has_direct_way and self.recipe.get("direct", True)
        return DIRECT if is_direct else ORIGINAL


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of the model."""

    name: str
    what: str
    """For people, in a few words."""
    form: Literal["same", "onnx", "onnx int8"] = "same"
    """Its files: the original's, or a graph made of it."""
    recipe: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    """``serving.precision``; "": the original's."""
    threads: int = 1
    """Where they are not a worker's, it shows what they would bring, and is never registered."""


@dataclass(frozen=True)
class Skipped:
    """One that does not apply."""

    name: str
    why: str


Plan = list[Variant | Skipped]


def plan(traits: Traits) -> Plan:
    """All forms, the original first; those that cannot be tried with the reason."""
    found: Plan = [_original(traits)]
    if traits.format == "sklearn":
        found += _sklearn(traits)
    if traits.format == "torch":
        found += _torch(traits)
    if traits.format in ("sklearn", "torch"):
        found += _onnx(traits)
    if traits.format == "onnx":
        found.append(_on_cpu(traits, Variant(
            name="int8", what="weights of 8 bits", form="onnx int8", threads=traits.threads,
        )))
    return found + list(_other_threads(found, traits))


def _original(traits: Traits) -> Variant:
    if traits.has_direct_way:
        return Variant(name=ORIGINAL, what="plain scikit-learn", recipe={"direct": False},
                       threads=traits.threads)
    return Variant(name=ORIGINAL, what="as registered", threads=traits.threads)


def _sklearn(traits: Traits) -> Iterator[Variant | Skipped]:
    if traits.has_direct_way:
        yield Variant(name=DIRECT, what="scikit-learn's arrays, without its checks",
                      recipe={} if traits.default == DIRECT else {"direct": True},
                      threads=traits.threads)
    else:
        yield Skipped(DIRECT, traits.why_not_direct)


def _torch(traits: Traits) -> Iterator[Variant | Skipped]:
    if not traits.has_convolutions:
        yield Skipped("channels last", "the network has no convolutions")
    elif traits.device == "gpu":
        yield Skipped("channels last", "what a GPU does anyway")
    else:
        yield Variant(name="channels last", what="images in another order in memory",
                      recipe={"channels_last": True}, threads=traits.threads)
    bfloat16 = Variant(name="bfloat16", what="autocast to 16 bits", precision="bfloat16",
                       threads=traits.threads)
    yield bfloat16 if traits.bfloat16 else Skipped(
        "bfloat16", "the processor has no instructions for it"
    )
    if traits.device == "gpu":
        yield Variant(name="float16", what="autocast to 16 bits", precision="float16",
                      threads=traits.threads)
    else:
        yield Skipped("float16", "processors compute it slower than float32")
    if traits.has_linear_layers:
        yield _on_cpu(traits, Variant(
            name="int8", what="linear layers of 8 bits", recipe={"int8": True},
            threads=traits.threads,
        ))
    else:
        yield Skipped("int8", "the network has no linear layers")
    if traits.compiler:
        yield Variant(name="compiled", what=f"torch.compile with {traits.compiler}",
                      recipe={"compile": True}, threads=traits.threads)
    else:
        yield Skipped("compiled", "no C++ compiler here (g++, or CXX)")


def _onnx(traits: Traits) -> Iterator[Variant | Skipped]:
    for name, what in (("onnx", "a graph in ONNX Runtime"),
                       ("onnx int8", "the same, weights of 8 bits")):
        if not traits.converts:
            yield Skipped(name, "pip install onnxruntime skl2onnx onnx")
        elif name == "onnx":
            yield Variant(name=name, what=what, form="onnx", threads=traits.threads)
        elif traits.format == "torch":
            yield _on_cpu(traits, Variant(
                name=name, what=what, form="onnx int8", threads=traits.threads,
            ))


def _on_cpu(traits: Traits, variant: Variant) -> Variant | Skipped:
    if traits.device == "gpu":
        return Skipped(variant.name, "for CPUs")
    return variant


def _other_threads(found: Plan, traits: Traits) -> Iterator[Variant]:
    """What all cores would bring, for the original and for ONNX Runtime."""
    if traits.device == "gpu" or traits.cores <= traits.threads:
        return
    for variant in found:
        if isinstance(variant, Variant) and variant.name in (ORIGINAL, "onnx"):
            yield Variant(
                name=f"{variant.name}, {traits.cores} threads", what="a setting of the worker",
                form=variant.form, recipe=variant.recipe, threads=traits.cores,
            )
