"""A schedule's options are those of ``submit_dataset``, by the same names."""

from __future__ import annotations

import inspect
from typing import get_args

from celeriac.datasets.records import Aggregation, Format, Period
from celeriac.settings.nightly import AggregateSettings, JobOptions
from producer.datasets import submit_dataset

NOT_A_NIGHTS = {
    "broker", "source", "model", "output", "job_id", "on_progress", "ordered", "asks_worker",
}


def test_every_option_of_a_dataset_is_one_of_a_schedule() -> None:
    options = set(inspect.signature(submit_dataset).parameters) - NOT_A_NIGHTS
    assert set(JobOptions.model_fields) == options
    defaults = inspect.signature(submit_dataset).parameters
    for name, field in JobOptions.model_fields.items():
        assert field.default == defaults[name].default, name
    assert get_args(JobOptions.model_fields["output_format"].annotation) == get_args(Format)


def test_an_aggregate_is_one_of_a_dataset() -> None:
    assert set(AggregateSettings.model_fields) == set(Aggregation.__struct_fields__)
    given = {
        "by": "product", "mean": "probability", "share": {"prediction": "positive", "ok": True},
        "quantiles": {"probability": [0.5, 0.95]}, "std": "probability",
        "period": {"product": "month"},
    }
    assert AggregateSettings.model_fields["period"].annotation == dict[str, Period]
    options = JobOptions.model_validate({"aggregate": given, "keep_columns": "id"})
    arguments = options.arguments()
    assert Aggregation.of(arguments["aggregate"]) == Aggregation.of(given)
    assert arguments["keep_columns"] == ("id",)
    assert "text_column" not in arguments
