"""Throughput and latency over batch size, as one self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Protocol

WIDTH, HEIGHT = 860, 360
_LEFT, _TOP, _PANEL, _TALL = 64, 56, 330, 210
_GAP = 440
_COLOURS = ("#1b7837", "#2166ac", "#b2182b", "#762a83", "#e08214", "#01665e", "#8c510a", "#4d4d4d")


class Measured(Protocol):
    """What is drawn of a form."""

    @property
    def name(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def predict_ms(self) -> Mapping[int, float]: ...


def svg(lines: Sequence[Measured], title: str) -> str:
    """Two panels: items/s and ms over batch size, both axes in steps of ten.

    Forms that differ, or are another number of threads, are dashed.
    """
    drawn = [line for line in lines if line.predict_ms]
    sizes = sorted({size for line in drawn for size in line.predict_ms})
    body = [*_panel(0, drawn, sizes, "items/s", lambda size, ms: size / ms * 1e3),
            *_panel(_GAP, drawn, sizes, "ms for a batch", lambda _size, ms: ms),
            *_legend(drawn)]
    height = HEIGHT + 18 * ((len(drawn) + 3) // 4)
    return "\n".join([
        (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" fill="#222">'),
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        (f'<text x="16" y="26" font-size="15" font-weight="bold">{escape(title)}: '
        "forms of the model by batch size</text>"),
        *body, "</svg>", "",
    ])


def _panel(
    left: int, lines: Sequence[Measured], sizes: Sequence[int], name: str,
    value: Callable[[int, float], float],
) -> Iterator[str]:
    points = [[(size, value(size, ms)) for size, ms in sorted(line.predict_ms.items())]
              for line in lines]
    low, high = _decades([y for one in points for _, y in one])
    x0 = left + _LEFT

    def place(size: float, y: float) -> tuple[float, float]:
        span = math.log(sizes[-1] / sizes[0]) or 1.0
        across = math.log(size / sizes[0]) / span if len(sizes) > 1 else 0.5
        up = (math.log10(y) - low) / (high - low)
        return x0 + across * _PANEL, _TOP + _TALL * (1 - up)

    yield f'<text x="{x0}" y="{_TOP - 10}" font-weight="bold">{name}</text>'
    for decade in range(low, high + 1):
        y = _TOP + _TALL * (high - decade) / (high - low)
        yield f'<path d="M{x0} {y:.1f}h{_PANEL}" stroke="#ddd"/>'
        yield f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end">{_power(decade)}</text>'
    for size in sizes:
        x, _ = place(size, 10**low)
        yield f'<text x="{x:.1f}" y="{_TOP + _TALL + 18}" text-anchor="middle">{size}</text>'
    yield (f'<text x="{x0 + _PANEL / 2}" y="{_TOP + _TALL + 36}" text-anchor="middle">'
           "items in a batch</text>")
    for number, (line, one) in enumerate(zip(lines, points, strict=True)):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in one))
        colour, style = _colour(number), _style(line)
        yield f'<path d="M{path}" fill="none" stroke="{colour}" {style}/>'
        for x, y in (place(*point) for point in one):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _legend(lines: Sequence[Measured]) -> Iterator[str]:
    for number, line in enumerate(lines):
        x, y = 16 + 208 * (number % 4), HEIGHT - 24 + 18 * (number // 4)
        words = f" ({line.verdict})" if line.verdict in ("winner", "default", "differs") else ""
        yield (f'<path d="M{x} {y - 4}h22" stroke="{_colour(number)}" {_style(line)}/>'
               f'<text x="{x + 28}" y="{y}">{escape(line.name + words)}</text>')


def _style(line: Measured) -> str:
    width = 3 if line.verdict == "winner" else 1.6
    dashed = ' stroke-dasharray="5 4"' if line.verdict in ("differs", "threads") else ""
    return f'stroke-width="{width}"{dashed}'


def _colour(number: int) -> str:
    return "#000000" if number == 0 else _COLOURS[(number - 1) % len(_COLOURS)]


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _power(decade: int) -> str:
    return f"{10**decade:,}" if decade >= 0 else f"{10.0**decade:g}"
