"""``[nightly.NAME]``: what runs each night, when, and what may be late or missed."""

from __future__ import annotations

import difflib
import posixpath
import re
import zoneinfo
from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from celeriac import errors
from celeriac.messages import ModelRef
from celeriac.settings.section import Section


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_DATE = re.compile(r"\{date(?::([^{}]+))?\}")
_DIRECTIVES = re.compile(r"%[YymdjGVu]")
"""Those of ``strftime`` that are numbers, whatever the language."""
_SAMPLE_DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(1_200)]
"""With a leap day, and years that begin and end in weeks of others: no two of them may have one
output folder."""


def rendered(template: str, day: date) -> str:
    """A path with the logical date in it.

    >>> rendered("/lake/year={date:%Y}/month={date:%m}/{date}.csv", date(2026, 11, 24))
    '/lake/year=2026/month=11/2026-11-24.csv'
    """
    return _DATE.sub(lambda found: day.strftime(found[1] or "%Y-%m-%d"), template)


def checked_apart(schedules: dict[str, NightlySettings]) -> dict[str, NightlySettings]:
    """``schedules`` themselves. Raises ValueError if two that are enabled write to one folder: the
    run of one would be taken for that of the other, and a job takes no folder in which a comparison
    has been."""
    seen: dict[str, str] = {}
    for name, schedule in schedules.items():
        if schedule.enabled:
            folder = posixpath.normpath(rendered(schedule.output, _SAMPLE_DAYS[0]))
            other = seen.setdefault(folder, name)
            if other != name:
                raise ValueError(
                    f"{other} and {name} have one output ({schedule.output}), and would take each "
                    "other's runs for their own, or each other's folders"
                )
    return schedules


def checked_model(model: str) -> str:
    """``model`` itself. Raises ValueError if it is no reference to a model."""
    try:
        ModelRef.parse(model)
    except errors.RequestError as error:
        raise ValueError(error.message) from error
    return model


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""Column names; a single one may stand without brackets."""
Share = Annotated[float, Field(ge=0, le=1)]


class AggregateSettings(Section):
    """``[nightly.NAME.options.aggregate]``: what is computed by groups of rows."""

    by: Annotated[Names, Field(min_length=1)]
    """Columns whose values make a group."""
    mean: Names = ()
    share: dict[str, str | int | bool] = Field(default_factory=dict)
    """How often a column has this value: ``{prediction = "positive"}``."""
    quantiles: dict[str, tuple[Share, ...]] = Field(default_factory=dict)
    """``{probability = [0.5, 0.95]}``."""
    std: Names = ()
    period: dict[str, Literal["day", "week", "month", "quarter", "year"]] = Field(
        default_factory=dict
    )
    """How long the stretches of a column of dates are that make a group: ``{date = "month"}``."""


class JobOptions(Section):
    """``[nightly.NAME.options]``: the options of ``submit_dataset``, by the same names."""

    chunk_rows: Annotated[int, Field(ge=1)] | None = None
    text_column: str | None = None
    keep_columns: Names | None = None
    """Joined to the predictions; unset: all."""
    id_column: str | None = None
    """Joined too, and names the rows that failed."""
    output_format: Literal["parquet", "csv", "jsonl"] = "parquet"
    merge: bool = False
    aggregate: AggregateSettings | None = None
    model_column: bool = False
    error_column: bool = False
    dedupe: bool = False
    """Equal rows of a chunk are predicted once."""
    max_error_share: Share | None = None
    """The job fails when more of its rows than this share have failed."""
    expires_s: Annotated[float, Field(gt=0)] | None = None
    """The job ends so long after its submission, whatever is left of it."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for ``submit_dataset``."""
        return self.model_dump(exclude_none=True)


class CheckOptions(Section):
    """``[nightly.NAME.check]``: the options of ``celeriac drift check``, by the same names."""

    text_column: str | None = None
    label: str | None = None
    """Column with the truth: have answers become worse?"""
    rows: Annotated[int, Field(ge=1)] = 100_000
    """That are looked at, evenly spread."""
    answers: bool = True
    """Load the model and compare its answers."""
    timeout_s: Annotated[float, Field(ge=1, le=3_000)] = 600.0
    """Longest check."""

    @model_validator(mode="after")
    def _labels_need_answers(self) -> CheckOptions:
        if self.label is not None and not self.answers:
            raise ValueError("label needs the model's answers: leave out answers = false")
        return self

    def arguments(self) -> dict[str, Any]:
        """What is compared, and how."""
        return self.model_dump(exclude={"timeout_s"})


class NightlySettings(Section):
    """``[nightly.NAME]``: a dataset that is scored, or compared with a reference, each night."""

    kind: Literal["dataset", "drift"] = "dataset"
    """What is done with the dataset: ``dataset`` scores it, ``drift`` compares it with what the
    version was made for."""
    dataset: str
    """Path of the dataset; ``{date}`` stands for the logical date, as 2026-11-22, and
    ``{date:%Y/%m/%d}`` for 2026/11/22."""
    ready: str | None = None
    """Path of a file or folder that is there as soon as the dataset is whole, as
    ``/lake/events/date={date}/_SUCCESS``: no run begins by itself before. Unset: the dataset is
    whole when it is there."""
    model: str
    output: str
    """Path of the output folder; holds ``{date}``, so that each date has its own."""
    at: str = "02:00"
    """Time of day of the run in ``time_zone``. The run's logical date is the day before."""
    time_zone: str = "UTC"
    """As ``Europe/Berlin``. A time that a clock change skips runs at the first instant after the
    gap; one that comes twice runs the first time."""
    missed: Literal["report", "run"] = "report"
    """A date that did not begin in time is only reported, or also run, the oldest first."""
    errors: Literal["report", "accept"] = "report"
    """A run that ended with failed rows is told, or taken as it is."""
    start_within_s: Annotated[int, Field(ge=60, le=86_400)] = 3_600
    """A run that has not begun so long after its time is missed. Until then it is tried again."""
    late_after_s: Annotated[int, Field(ge=60, le=604_800)] = 14_400
    """A run that has not ended so long after its time is late."""
    lookback_days: Annotated[int, Field(ge=1, le=31)] = 3
    """How many past dates are looked after."""
    first_date: date | None = None
    """Dates before it are not owed: the schedule did not exist."""
    enabled: bool = True
    options: JobOptions = JobOptions()
    """Of a job."""
    drift: bool = False
    """Tell the drift that the report of a job has found."""
    check: CheckOptions = CheckOptions()
    """Of a comparison."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> NightlySettings:
        if self.kind == "drift" and self.options != JobOptions():
            raise ValueError('options are of a job; of kind = "drift", say [nightly.NAME.check]')
        if self.kind == "dataset" and self.check != CheckOptions():
            raise ValueError('check is of kind = "drift"; a job has [nightly.NAME.options]')
        if self.kind == "drift" and self.drift:
            raise ValueError('drift = true is of a job; an entry of kind = "drift" tells it anyway')
        return self

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, at: str) -> str:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", at, re.ASCII):
            raise ValueError("write it as HH:MM, from 00:00 to 23:59")
        return at

    @field_validator("dataset", "ready", "output")
    @classmethod
    def _only_date(cls, template: str | None) -> str | None:
        if template is None:
            return None
        other = re.search(r"\{[^{}]*\}", _DATE.sub("", template))
        if other:
            raise ValueError(
                f"{other[0]} stands for nothing; the logical date is {{date}}, or in another form "
                "{date:%Y/%m/%d}"
            )
        for form in filter(None, _DATE.findall(template)):
            if not _DIRECTIVES.search(form) or "%" in _DIRECTIVES.sub("", form):
                raise ValueError(
                    f"{{date:{form}}} is no form of a date; it is made of %Y, %m, %d, %y, %j, %G, "
                    "%V and %u, as {date:%Y/%m/%d}"
                )
        return template

    @field_validator("output")
    @classmethod
    def _one_a_night(cls, output: str) -> str:
        if not _DATE.search(output):
            raise ValueError("holds no {date}, so each night would meet the last one's")
        if len({rendered(output, day) for day in _SAMPLE_DAYS}) < len(_SAMPLE_DAYS):
            raise ValueError("is the same for several dates, so a night would meet an earlier one")
        return output

    @field_validator("model")
    @classmethod
    def _a_model(cls, model: str) -> str:
        return checked_model(model)

    @field_validator("time_zone")
    @classmethod
    def _a_zone(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            close = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ", as Europe/Berlin is"
            raise ValueError(f"is no time zone{hint}") from error
        return name
