"""What an ONNX file refers to, read from its bytes before any library is given it.

ONNX is a protobuf message. Only what decides whether the file may be loaded is looked at: which
operators it uses, which files it names beside itself, and which labels it holds. Weights are
skipped, so a file of gigabytes takes milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_DEPTH = 64
"""Graphs within graphs, at most."""
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# Forests hold millions of numbers, each a field of its own; a run of them is skipped at once.
_RUNS = {
    0x40: re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+"),
    0x3D: re.compile(rb"(?:\x3d.{4})+", re.DOTALL),
}
_COPIES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze")
"""Operators that hand on what their first input says."""


class BadFile(ValueError):
    """The bytes are no ONNX model."""


class Node(NamedTuple):
    """What makes a value."""

    operator: str
    inputs: tuple[str, ...]
    labels: tuple[int | str, ...]
    """That it chooses from, if it is a classifier that knows them."""


@dataclass
class Graph:
    """What was found, in all graphs and functions of the file."""

    operators: set[tuple[str, str]] = field(default_factory=set)
    """(domain, name) of every node."""
    functions: set[tuple[str, str]] = field(default_factory=set)
    """(domain, name) of operators that the file itself defines."""
    external: set[str] = field(default_factory=set)
    """Paths of files with weights, as the file names them."""
    inputs: dict[str, int] = field(default_factory=dict)
    """Of the outermost graph: name, and ONNX's number for the type of its elements."""
    producers: dict[str, Node] = field(default_factory=dict)
    """What makes each value of the outermost graph."""
    constants: dict[str, memoryview] = field(default_factory=dict)
    """Tensors of the outermost graph."""

    @property
    def scales_together(self) -> bool:
        """True if inputs are rounded as it runs, by a scale of all that are given at once."""
        return any(name.startswith("DynamicQuantize") for _, name in self.operators)

    def labels_of(self, output: str) -> tuple[int | str, ...]:
        """What an output chooses from; empty if the file does not say so.

        A classifier within others may have numbers for labels that are not those of the whole.
        """
        node = self.producers.get(output)
        while node is not None and not node.labels and node.inputs:
            if node.operator == "ArrayFeatureExtractor":
                return tuple(_values(self.constants.get(node.inputs[0], memoryview(b""))))
            if node.operator not in _COPIES:
                break
            node = self.producers.get(node.inputs[0])
        return node.labels if node else ()


def scan(data: bytes) -> Graph:
    """Look through the bytes of a model. Raises BadFile."""
    graph, seen = Graph(), set()
    for number, value in _fields(memoryview(data)):
        seen.add(number)
        if number == 7:
            _graph(_message(value), graph, 0)
        elif number == 25:
            _function(_message(value), graph)
    if not {1, 7} <= seen:  # ir_version, graph
        raise BadFile("it has no graph")
    return graph


def _graph(data: memoryview, graph: Graph, depth: int) -> None:
    if depth > _DEPTH:
        raise BadFile("its graphs are nested too deep")
    constants: dict[str, memoryview] = {}
    for number, value in _fields(data):
        if number == 1:
            _node(_message(value), graph, depth)
        elif number == 5:
            constants[_tensor(_message(value), graph)] = _message(value)
        elif number == 15:
            _sparse(_message(value), graph)
        elif number == 11 and depth == 0:
            graph.inputs.update(_input(_message(value)))
    if depth == 0:
        graph.constants.update(constants)
        for name in constants.keys() & graph.inputs.keys():
            del graph.inputs[name]  # old files list their weights among the inputs


def _input(data: memoryview) -> dict[str, int]:
    name, element = "", 0
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for kind, tensor in _fields(_message(value)):
                if kind == 1:
                    found = dict(_fields(_message(tensor))).get(1, 0)
                    element = found if isinstance(found, int) else 0
    return {name: element}


def _function(data: memoryview, graph: Graph) -> None:
    name = domain = ""
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 10:
            domain = _text(value)
        elif number == 7:
            _node(_message(value), graph, 1)
    graph.functions.add((domain, name))


def _node(data: memoryview, graph: Graph, depth: int) -> None:
    name = domain = ""
    inputs, outputs = [], []
    labels: tuple[int | str, ...] = ()
    for number, value in _fields(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            name = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            labels = _attribute(_message(value), graph, depth) or labels
    graph.operators.add((domain, name))
    if depth == 0:
        node = Node(name, tuple(inputs), labels)
        graph.producers.update(dict.fromkeys(outputs, node))


def _attribute(data: memoryview, graph: Graph, depth: int) -> tuple[int | str, ...]:
    """Looks through it; returns the labels that it lists."""
    name = ""
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number in (5, 10):
            _tensor(_message(value), graph)
        elif number in (22, 23):
            _sparse(_message(value), graph)
        elif number in (6, 11):
            _graph(_message(value), graph, depth + 1)
    return tuple(_labels(data)) if name.startswith("classlabels_") else ()


def _labels(data: memoryview) -> Iterator[int | str]:
    for number, value in _fields(data, skip_runs=False):
        if number == 8 and isinstance(value, int):
            yield _signed(value)
        elif number == 9:
            yield _text(value)


def _values(tensor: memoryview) -> Iterator[int | str]:
    """Texts or whole numbers of a tensor; nothing of one of other numbers, or of raw bytes."""
    for number, value in _fields(tensor, skip_runs=False):
        if number in (5, 7):
            yield from map(_signed, [value] if isinstance(value, int) else _packed(value))
        elif number == 6:
            yield _text(value)


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _sparse(data: memoryview, graph: Graph) -> None:
    for number, value in _fields(data):
        if number in (1, 2):
            _tensor(_message(value), graph)


def _tensor(data: memoryview, graph: Graph) -> str:
    """Notes where its values are; returns its name."""
    name = ""
    for number, value in _fields(data):
        if number == 8:
            name = _text(value)
        elif number == 13:
            pair = {key: _text(text) for key, text in _fields(_message(value))}
            if pair.get(1) == "location":
                graph.external.add(pair.get(2, ""))
    return name


def _fields(
    data: memoryview, *, skip_runs: bool = True
) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; of a run of numbers only the last may be told."""
    position, end = 0, len(data)
    while position < end:
        run = _RUNS.get(data[position]) if skip_runs else None
        if run is not None and (found := run.match(data, position)):
            position = found.end()
            continue
        tag, position = _varint(data, position)
        if tag >= 1 << 32:  # parsers drop the bits above, and see another field than we do
            raise BadFile("it is no protobuf message")
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire in (_BYTES, _EIGHT, _FOUR):
            size = {_EIGHT: 8, _FOUR: 4}.get(wire, 0)
            if wire == _BYTES:
                size, position = _varint(data, position)
            value = data[position : position + size]
            position += size
        else:
            raise BadFile("it is no protobuf message")
        if position > end or number == 0:
            raise BadFile("it ends too early")
        yield number, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BadFile("it ends too early")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise BadFile("a part of it is a number where a message should be")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError:
        raise BadFile("a name in it is no text") from None
