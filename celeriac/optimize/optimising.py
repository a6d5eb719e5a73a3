"""From a registered version to a faster one: build, measure, compare, register."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celeriac import errors
from celeriac.optimize import choosing, plot, served
from celeriac.optimize.building import Builder
from celeriac.optimize.choosing import Gain, Verdict
from celeriac.optimize.measuring import Measured, Task, faster, measure, read_answers
from celeriac.optimize.parity import Allowed, Parity, check_labels, compare, golden_problem
from celeriac.optimize.variants import ORIGINAL, Skipped, Variant, plan
from celeriac.outputs import Output
from celeriac.registry.manifest import GoldenExample, ModelDraft, ModelVersion, Passes, Profile
from celeriac.registry.profiles import this_machine, usable_cores
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.scoring import essence

BATCH_SIZES = (1, 8, 32, 128)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How it is measured, and what another form may cost in exactness."""

    batch_sizes: Sequence[int] = BATCH_SIZES
    size_s: float = 0.4
    """For each batch size of each form."""
    limit_s: float = 120.0
    """For each form; longer ones are given up."""
    threads: int = 1
    """That a worker gives the model."""
    cores: int = 1
    allowed: Allowed = field(default_factory=Allowed)
    only: Sequence[str] = ()
    """Names of the forms to try; none: all."""


@dataclass(kw_only=True)
class Line:
    """One form in the table."""

    name: str
    what: str
    threads: int
    verdict: Verdict
    why: str = ""
    predict_ms: dict[int, float] = field(default_factory=dict)
    score_ms: dict[int, float] = field(default_factory=dict)
    speedup: dict[int, float] = field(default_factory=dict)
    mean_speedup: float | None = None
    load_s: float | None = None
    memory_mb: float | None = None
    parity: Parity | None = None


@dataclass(kw_only=True)
class Found:
    """The whole table."""

    model: str
    machine: str
    device: str
    threads: int
    samples: int
    golden_only: bool
    """Compared on the version's golden examples alone."""
    measured_at: str
    lines: list[Line]
    default: str = ORIGINAL
    """The form that the version is run as now; others have to be faster than that."""
    winner: str | None = None
    version: ModelVersion | None = None
    """What was registered."""

    def as_json(self) -> str:
        """For ``optimize.json``; ``version`` is left out, which is not known yet."""
        record = {key: value for key, value in asdict(replace(self, version=None)).items()
                  if key != "version"}
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


class Optimiser:
    """One run for one version, on the version's device. ``tell`` gets a line for each form as it is
    measured. For a GPU, the environment says which: the processes that measure have this one's."""

    def __init__(  # noqa: PLR0913 - what, where, with what, how
        self, registry: Registry, name: str, version: int, *, options: LoadOptions,
        wanted: Wanted, items: Sequence[Any], labels: Sequence[Any] | None = None,
        golden_only: bool = False, tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._registry = registry
        self._manifest = registry.verify(name, version)
        self._folder = registry.folder(name, version)
        self._options = replace(
            options, device="cuda" if self._manifest.device == "gpu" else "cpu",
            threads=wanted.threads,
        )
        self._wanted = wanted
        self._items, self._labels = list(items), labels
        if labels is not None:
            check_labels(self._manifest.output, labels)
        self._golden_only = golden_only
        self._tell = tell
        self._measured: dict[str, Measured] = {}
        self._built: dict[str, tuple[Path, ModelVersion]] = {}

    def run(self, *, register: bool = True, profile: bool = False) -> Found:
        """Measure all forms and register the fastest one that answers alike.

        Each is built and measured in processes of its own, so this one loads no model. Nothing is
        registered if none is faster; with ``profile``, the original then is, once more, with its
        measured cost. Raises an error of ours if the original itself cannot be
        loaded or measured.
        """
        with tempfile.TemporaryDirectory(prefix="celeriac-optimize-") as work:
            self._work = Path(work)
            (self._work / "samples.json").write_text(json.dumps(self._items), encoding="utf-8")
            builder = Builder(
                self._manifest, self._folder, self._options, self._work,
                limit_s=self._wanted.limit_s,
            )
            traits = builder.traits(self._wanted.cores)
            self._default = traits.default
            steps = self._chosen(plan(traits))
            found = self._found([self._line(builder, one) for one in steps])
            self._again([step for step in steps if isinstance(step, Variant)])
            self._judge(found)
            if register and (found.winner or profile):
                found.version = self._register(builder, found)
        return found

    def _chosen(self, steps: Sequence[Variant | Skipped]) -> list[Variant | Skipped]:
        only = set(self._wanted.only)
        unknown = only - {step.name for step in steps}
        if unknown:
            raise errors.RequestError(
                f"no form is named {', '.join(sorted(unknown))}; there are "
                f"{', '.join(step.name for step in steps)}"
            )
        always = {ORIGINAL, self._default}
        return [step for step in steps if not only or step.name in only | always]

    # --- measure --------------------------------------------------------------------------------

    def _line(self, builder: Builder, step: Variant | Skipped) -> Line:
        if isinstance(step, Skipped):
            return Line(name=step.name, what="", threads=self._wanted.threads,
                        verdict="skipped", why=step.why)
        self._tell(step.name)
        line = Line(name=step.name, what=step.what, threads=step.threads, verdict="original")
        try:
            folder, manifest = self._built[step.name] = builder.build(step)
            found = self._measure(step, folder, manifest)
        except errors.CeleriacError as error:
            if step.name in (ORIGINAL, self._default):
                raise errors.RegistryError(
                    f"{self._manifest.ref}: the {step.name} form cannot be measured: "
                    f"{error.message}"
                ) from error
            return replace(line, verdict="failed", why=error.message)
        self._measured[step.name] = found
        return replace(line, load_s=found.load_s, memory_mb=found.memory_mb)

    def _measure(self, step: Variant, folder: Path, manifest: ModelVersion) -> Measured:
        task = Task(
            folder=str(folder), manifest=manifest.model_dump_json(),
            samples=str(self._work / "samples.json"), answers=str(self._answers(step.name)),
            batch_sizes=self._wanted.batch_sizes, size_s=self._wanted.size_s,
            options=asdict(replace(self._options, threads=step.threads)),
        )
        return measure(task, step.threads, self._wanted.limit_s)

    def _again(self, steps: Sequence[Variant]) -> None:
        """Measure once more, beside the default, what looks slower by little at some size.

        A machine that others use is slow for seconds at a time.
        """
        base = self._base().predict_s
        doubtful = [
            step for step in steps if step.name in self._measured and choosing.is_doubtful(
                choosing.gain(base, self._measured[step.name].predict_s)
            )
        ]
        defaults = [step for step in steps if step.name == self._default]
        for step in [*defaults, *doubtful] if doubtful else ():
            self._tell(f"{step.name}, once more")
            with contextlib.suppress(errors.CeleriacError):
                once_more = self._measure(step, *self._built[step.name])
                self._measured[step.name] = faster(self._measured[step.name], once_more)

    def _base(self) -> Measured:
        """What others have to be faster than."""
        return self._measured[self._default]

    def _answers(self, name: str) -> Path:
        return self._work / f"{name.replace(' ', '-')}.npz"

    # --- judge ----------------------------------------------------------------------------------

    def _found(self, lines: list[Line]) -> Found:
        return Found(
            model=self._manifest.ref, machine=this_machine(), device=self._manifest.device,
            threads=self._wanted.threads, samples=len(self._items),
            golden_only=self._golden_only, lines=lines, default=self._default,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _judge(self, found: Found) -> None:
        """Fill in speed, parity and verdict of each line, and the winner."""
        plain = self._measured[ORIGINAL].predict_s
        before = read_answers(self._answers(ORIGINAL))
        of = "" if self._default == ORIGINAL else self._default
        gains: dict[str, Gain] = {}
        for line in found.lines:
            if line.name not in self._measured:
                continue
            measured = self._measured[line.name]
            line.predict_ms = {size: 1e3 * s for size, s in measured.predict_s.items()}
            line.score_ms = {size: 1e3 * s for size, s in measured.score_s.items()}
            shown = choosing.gain(plain, measured.predict_s)
            line.speedup, line.mean_speedup = dict(shown.by_size), shown.mean
            line.parity = self._parity(before, line.name)
            if line.name == ORIGINAL:
                continue
            if line.parity.problem:
                line.verdict, line.why = "differs", line.parity.problem
            elif line.threads != self._wanted.threads:
                line.verdict, line.why = "threads", self._of_threads(line.name)
            elif line.name == self._default:
                line.verdict = "default"
            else:
                gains[line.name] = choosing.gain(self._base().predict_s, measured.predict_s)
                line.verdict, line.why = choosing.verdict(gains[line.name], of)
        found.winner = choosing.winner(gains)
        for line in found.lines:
            if line.name == found.winner:
                line.verdict = "winner"

    def _of_threads(self, name: str) -> str:
        """What more threads bring to a form, in words; "": nothing."""
        usual = self._measured.get(name.partition(", ")[0])
        if usual is None:
            return ""
        mean = choosing.gain(usual.predict_s, self._measured[name].predict_s).mean
        return f"{mean:.2f} x of one with {self._wanted.threads}" if mean >= choosing.WORTH else ""

    def _parity(self, before: Output, name: str) -> Parity:
        after = read_answers(self._answers(name))
        found = compare(
            before, after, self._manifest.output, self._wanted.allowed, self._labels
        )
        problem = found.problem or golden_problem(
            self._measured[ORIGINAL].golden, self._measured[name].golden, self._wanted.allowed
        )
        return replace(found, problem=problem)

    # --- register -------------------------------------------------------------------------------

    def _register(self, builder: Builder, found: Found) -> ModelVersion:
        name = found.winner or found.default
        source, manifest = self._built[name]
        table, picture = found.as_json(), plot.svg(found.lines, found.model)
        profile = tuple(self._profiles(name))

        def write(folder: Path) -> ModelDraft:
            builder.copy_files(source, folder)
            (folder / "optimize.json").write_text(table, encoding="utf-8")
            (folder / "optimize.svg").write_text(picture, encoding="utf-8")
            draft = {key: getattr(manifest, key) for key in ModelDraft.model_fields}
            draft |= {"parent": self._manifest.ref, "profile": profile}
            draft["golden"] = self._golden(name)
            draft["description"] = manifest.description or f"{self._manifest.ref} as {name}"
            return ModelDraft(**draft)

        return self._registry.add(self._manifest.name, write)

    def _profiles(self, name: str) -> list[Profile]:
        """The cost line of the winner, and of it with other numbers of threads."""
        profiles = []
        for one, measured in self._measured.items():
            if one != name and not one.startswith(f"{name}, "):
                continue
            threads = self._wanted.threads if one == name else self._wanted.cores
            fixed_s, item_s = choosing.cost_line(measured.score_s)
            profiles.append(Profile(
                device=self._manifest.device, threads=threads, machine=this_machine(),
                cores=usable_cores(), fixed_s=fixed_s, item_s=item_s,
                batch_sizes=tuple(sorted(measured.score_s)),
                passes=self._passes(name) if one == name else (),
            ))
        return profiles

    def _passes(self, name: str) -> tuple[Passes, ...]:
        """How long small batches of a form take a worker that serves; none if that takes too long:
        of a dear model the cost line says enough."""
        self._tell(f"{name}, as it is served")
        folder, manifest = self._built[name]
        task = served.Task(
            folder=str(folder), manifest=manifest.model_dump_json(),
            samples=str(self._work / "samples.json"), size_s=self._wanted.size_s,
            most_items=manifest.serving.max_batch_size or served.SIZES[-1],
            options=asdict(self._options),
        )
        with contextlib.suppress(errors.CeleriacError):
            return served.measure(task, self._wanted.threads, self._wanted.limit_s)
        return ()

    def _golden(self, name: str) -> tuple[GoldenExample, ...]:
        """The golden items, with the answers that the new form gave."""
        answers = self._measured[name].golden
        for answer in answers:
            if "error" in answer:
                raise errors.RegistryError(f"a golden example fails: {answer['error']['message']}")
        return tuple(
            GoldenExample(item=example.item, answer=essence(answer))
            for example, answer in zip(self._manifest.golden, answers, strict=True)
        )
