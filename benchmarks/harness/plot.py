"""Plots of a benchmark, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.load import SHARES

if TYPE_CHECKING:
    from benchmarks import batch as batch_benchmark
    from benchmarks.gateway import Results as GatewayResults
    from benchmarks.realtime import Results
    from celeriac.optimize.optimising import Found, Line

COLOURS = {
    "Celeriac, asyncio": "#1b7837", "Celeriac, threads": "#5aae61",
    "Celeriac, single items": "#a6dba0", "raw consumer": "#737373",
    "plain Celery": "#b2182b", "huey": "#d6604d", "dramatiq": "#f4a582",
}
IN_FLIGHT = "64 in flight"


def realtime(found: Results, path: Path) -> None:
    """Throughput of each subject, and how its latencies are spread, with 64 in flight."""
    plt = _pyplot()
    models = [m for m in ("echo", "text", "digits") if ("plain Celery", m, IN_FLIGHT) in found]
    figure, axes = plt.subplots(
        2, len(models), figsize=(4.2 * len(models), 6.4), squeeze=False, layout="constrained"
    )
    for column, model in enumerate(models):
        _bars(axes[0][column], found, model)
        _spread(axes[1][column], found, model)
    _save(plt, figure, path, "One worker process, 64 items in flight from one client process")


def batch(found: batch_benchmark.Results, path: Path) -> None:
    """Seconds of each subject, one panel for each dataset: bars are medians, dots are runs."""
    plt = _pyplot()
    titles = {"numbers, lr": "1,000,000 rows, logistic regression", "numbers, rf":
              "1,000,000 rows, random forest", "long job": "1,000,000 rows, large forest",
              "reviews": "reviews (CSV)", "images, 8 x 8": "images of 8 x 8 pixels",
              "images, 224 x 224": "images of 224 x 224 pixels"}
    shown = {name: title for name, title in titles.items() if (name, "Celeriac") in found}
    count = max(len(shown), 1)
    figure, axes = plt.subplots(
        count, 1, figsize=(8, 1.1 + 1.1 * count), squeeze=False, layout="constrained"
    )
    for row, (measure, title) in enumerate(shown.items()):
        some = {
            subject: [run.seconds for run in found[measure, subject]]
            for subject in ("Pool.map", "Celeriac", "bare loop") if (measure, subject) in found
        }
        _seconds(axes[row][0], some, title)
    _save(plt, figure, path, "Seconds of a whole job, two processes")


def gateway(found: GatewayResults, path: Path) -> None:
    """Rates and latencies of each server with 64 in flight, and the latency of a lone request."""
    plt = _pyplot()
    models = [m for m in ("text", "digits") if ("Celeriac", m, IN_FLIGHT) in found]
    figure, axes = plt.subplots(
        3, len(models), figsize=(5.2 * len(models), 8.4), squeeze=False, layout="constrained"
    )
    measures = (
        ("requests/s, 64 in flight", IN_FLIGHT, lambda one: one.per_s, "{:,.0f}"),
        ("p99 ms, 64 in flight", IN_FLIGHT, lambda one: one.ms(0.99), "{:,.0f}"),
        ("p50 ms, 1 in flight", "1 in flight", lambda one: one.ms(0.5), "{:.2g}"),
    )
    for column, model in enumerate(models):
        names = [name for name, of, at in found if (of, at) == (model, IN_FLIGHT)]
        names.sort(key=lambda name, model=model: found[name, model, IN_FLIGHT].per_s)
        for row, (title, label, value, form) in enumerate(measures):
            values = [value(found[name, model, label]) for name in names]
            _lines(axes[row][column], names, values, f"{model}: {title}", form)
    _save(plt, figure, path, "HTTP, two cores, one client process")


def models(found: Mapping[str, Found], path: Path) -> None:
    """Items a second, and the latency of a batch, over batch size: every form of each model."""
    plt = _pyplot()
    figure, axes = plt.subplots(
        len(found), 2, figsize=(9.6, 2.5 * len(found)), squeeze=False, layout="constrained"
    )
    for (rates, waits), (name, one) in zip(axes, found.items(), strict=True):
        for line in (one for one in one.lines if one.predict_ms and " threads" not in one.name):
            _form(rates, line, lambda size, ms: size * 1e3 / ms)
            _form(waits, line, lambda _size, ms: ms)
        _by_batch_size(rates, f"{name}: items/s", "{x:,.0f}")
        _by_batch_size(waits, f"{name}: ms for a batch", "{x:g}")
        waits.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axis in axes[-1]:
        axis.set_xlabel("items in a batch")
    _save(plt, figure, path, "Forms of the models, one thread")


def _form(axis: Any, line: Line, value: Callable[[int, float], float]) -> None:
    sizes = sorted(line.predict_ms)
    label = f"{line.name} (differs)" if line.verdict == "differs" else line.name
    axis.plot(
        sizes, [value(size, line.predict_ms[size]) for size in sizes],
        ":" if line.verdict == "differs" else "-", marker=".", label=label,
        color={"original": "black", "winner": "#1b7837"}.get(line.verdict),
        linewidth=2.5 if line.verdict == "winner" else 1.4,
    )
    axis.set_xticks(sizes, [str(size) for size in sizes])


def _by_batch_size(axis: Any, title: str, form: str) -> None:
    from matplotlib.ticker import NullFormatter

    ticks = axis.get_xticks(), [label.get_text() for label in axis.get_xticklabels()]
    low, high = axis.dataLim.intervaly
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(*ticks)
    axis.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(form)
    axis.set_title(title, loc="left")
    axis.grid(visible=True, axis="y", which="major", alpha=0.3)


def _lines(axes, names, values, title: str, form: str) -> None:  # type: ignore[no-untyped-def]
    colours = ["#1b7837" if name.startswith("Celeriac") else "#737373" for name in names]
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, [form.format(value) for value in values], padding=3)
    axes.set_title(title, loc="left")
    axes.set_xlim(0, max(values) * 1.2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=4)


def _seconds(axes, some: dict[str, list[float]], title: str) -> None:  # type: ignore[no-untyped-def]
    colours = {"Celeriac": "#1b7837", "bare loop": "#737373", "Pool.map": "#b2182b"}
    middles = {name: sorted(seconds)[len(seconds) // 2] for name, seconds in some.items()}
    bars = axes.barh([*middles], [*middles.values()], color=[colours[name] for name in middles])
    axes.bar_label(bars, [f"{value:.3g}" for value in middles.values()], label_type="center",
                   color="white", weight="bold")
    for name, seconds in some.items():
        axes.plot(seconds, [name] * len(seconds), "o", color="black", markersize=2)
    axes.set_title(title, loc="left")
    axes.set_xlim(0, max(max(seconds) for seconds in some.values()) * 1.15)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "celeriac", "font.size": 9,
                         "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    return pyplot


def _save(plt: Any, figure: Any, path: Path, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _bars(axes, found: Results, model: str) -> None:  # type: ignore[no-untyped-def]
    names = [name for name in COLOURS if (name, model, IN_FLIGHT) in found][::-1]
    rates = [found[name, model, IN_FLIGHT].per_s for name in names]
    bars = axes.barh(names, rates, color=[COLOURS[name] for name in names])
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3)
    axes.set_title(f"{model}: items/s", loc="left")
    axes.set_xlim(0, max(rates) * 1.2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=4)


def _spread(axes, found: Results, model: str) -> None:  # type: ignore[no-untyped-def]
    for name, colour in COLOURS.items():
        if (name, model, IN_FLIGHT) in found:
            waits = found[name, model, IN_FLIGHT].quantiles_ms
            axes.plot(waits[1:-1], [share * 100 for share in SHARES[1:-1]], color=colour,
                      linewidth=1.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 100)
    axes.set_xlabel("latency, ms; colours as above")
    axes.set_ylabel("% of calls answered within")
    axes.grid(visible=True, axis="x", which="major", alpha=0.3)
