"""What a submission says of its output, from Python and from the command line; no chunk is run."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import redis
from typer.testing import CliRunner

from celeriac import errors
from celeriac.datasets.records import Aggregation
from celeriac.jobs.folder import JobFolder
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema, Pixels
from celeriac.registry.store import Registry
from celeriac.settings import Settings, get_settings
from producer.broker import Broker
from producer.cli import batch
from producer.datasets import submit_dataset

FRAME = pd.DataFrame({"id": [1, 2], "text": ["a", "b"], "product": ["p", "q"]})


@pytest.fixture
def broker(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broker]:
    """A broker with a model of sentiments and one of images."""
    registry = Registry(settings.models.root)
    texts = InputSchema(kind="text", columns=(Column(name="text", dtype="text"),))
    grey = InputSchema(kind="image", shape=(2, 2), pixels=Pixels(mode="L"))
    moods = OutputSchema(kind="classifier", labels=("good", "bad"), probabilities=True)
    for name, schema, output in [
        ("mood", texts, moods), ("grey", grey, OutputSchema(kind="regressor")),
    ]:
        draft = ModelDraft(format="echo", input=schema, output=output)
        registry.add(name, lambda folder, draft=draft: draft)
    publish(redis_client, registry.infos())
    monkeypatch.setenv("CELERIAC_BROKER_URL", settings.broker_url)
    get_settings.cache_clear()
    broker = Broker(settings)
    yield broker
    broker.close()


def test_the_command_and_the_client_mean_the_same(broker: Broker, tmp_path: Path) -> None:
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode()))
    result = CliRunner().invoke(batch.app, [
        "submit", str(source), "--model", "mood@1", "--output", str(tmp_path / "cli"),
        "--by", "product", "--mean", "probability", "--mean", "id", "--share", "prediction=good",
        "--quantile", "probability=0.5", "--quantile", "probability=0.95", "--format", "jsonl",
        "--merge", "--model-column", "--error-column", "--id", "id", "--dedupe",
        "--max-error-share", "0.25",
    ])
    assert result.exit_code == 0, result.output
    submit_dataset(
        broker, source, "mood@1", tmp_path / "client", output_format="jsonl", merge=True,
        model_column=True, error_column=True, id_column="id", dedupe=True, max_error_share=0.25,
        aggregate={
            "by": "product", "mean": ["probability", "id"], "share": {"prediction": "good"},
            "quantiles": {"probability": [0.5, 0.95]},
        },
    )
    plans = [JobFolder(tmp_path / name).load() for name in ("cli", "client")]
    assert plans[0].scoring == plans[1].scoring
    assert plans[0].max_error_share == plans[1].max_error_share == 0.25
    assert (plans[0].scoring.id_column, plans[0].scoring.dedupe) == ("id", True)
    assert plans[0].scoring.aggregate == Aggregation(
        by=("product",), mean=("probability", "id"), share={"prediction": "good"},
        quantiles={"probability": (0.5, 0.95)},
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mean", "id"], "need --by"), (["--by", "product", "--share", "good"], "COLUMN=VALUE"),
        (["--by", "product", "--quantile", "id=half"], "is no rank"),
        (["--by", "product", "--share", "product=p", "--share", "product=q"], "is there twice"),
        (["--by", "product", "--share", "prediction=goood"], "it answers: good, bad"),
    ],
)
def test_the_command_explains_its_options(
    broker: Broker, tmp_path: Path, words: list[str], says: str
) -> None:
    source = tmp_path / "in.csv"
    FRAME.to_csv(source, index=False)
    result = CliRunner().invoke(
        batch.app, ["submit", str(source), "-m", "mood@1", "-o", str(tmp_path / "out"), *words]
    )
    assert isinstance(result.exception, errors.RequestError)
    assert says in result.exception.message
    assert not (tmp_path / "out").exists()


def test_an_output_without_a_name_is_not_this_folder(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``--output "$OUT"`` has it, where nobody has set it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.RequestError, match="no output folder is named"):
        submit_dataset(broker, FRAME, "mood@1", "")
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("aggregate", "says"),
    [
        ({"by": "product", "mean": "prediction"}, "'prediction' holds no numbers"),
        ({"by": "product", "mean": "text"}, "'text' holds no numbers"),
        ({"by": "price"}, "no column 'price'"), ({"by": "product", "sum": "id"}, "looks like"),
    ],
)
def test_an_aggregate_that_cannot_be_is_refused_before_the_plan(
    broker: Broker, tmp_path: Path, aggregate: Any, says: str
) -> None:
    with pytest.raises(errors.RequestError, match=says):
        submit_dataset(broker, FRAME, "mood@1", tmp_path / "out", aggregate=aggregate)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("aggregate", [
    {"by": "error"}, {"by": "id", "mean": "error"}, {"by": "id", "share": {"error": 1}},
])
def test_a_column_that_the_job_hides_makes_no_groups(
    broker: Broker, tmp_path: Path, aggregate: Any
) -> None:
    """Its aggregates were those of the job's own column: null."""
    frame = FRAME.assign(error=[0.5, 1.5])
    with pytest.raises(errors.RequestError, match="'error' of the dataset cannot be aggregated"):
        submit_dataset(
            broker, frame, "mood@1", tmp_path / "out", aggregate=aggregate, error_column=True
        )
    submit_dataset(broker, frame, "mood@1", tmp_path / "out", aggregate=aggregate)


@pytest.mark.parametrize("aggregate", [{"by": "tags"}, {"by": "id", "share": {"tags": "a"}}])
def test_lists_make_no_groups(broker: Broker, tmp_path: Path, aggregate: Any) -> None:
    """The job failed with its last step."""
    frame = pa.table({"id": [1, 2], "text": ["a", "b"], "tags": [["a"], ["b", "c"]]})
    with pytest.raises(errors.RequestError, match="column 'tags' holds lists or records: they"):
        submit_dataset(broker, frame, "mood@1", tmp_path / "out", aggregate=aggregate)
    assert not (tmp_path / "out").exists()


def test_a_frame_that_comes_again_continues_and_another_leaves_nothing(
    broker: Broker, tmp_path: Path
) -> None:
    first = submit_dataset(broker, FRAME, "mood@1", tmp_path / "out")
    again = submit_dataset(broker, FRAME, "mood@1", tmp_path / "out")
    assert (again.id, again.resumed) == (first.id, True)
    copies = list((tmp_path / "out" / "input").iterdir())
    assert len(copies) == 1
    with pytest.raises(errors.OutputConflict, match="holds job"):
        submit_dataset(broker, FRAME.assign(id=[3, 4]), "mood@1", tmp_path / "out")
    assert list((tmp_path / "out" / "input").iterdir()) == copies


def test_a_model_of_images_wants_images(broker: Broker, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("image,id\na.png,1\n")
    for wrong, says in [
        (source, "takes images: a folder"), (FRAME, "lacks 'image'"),
        (FRAME.assign(image="a.png"), "takes the bytes of image files"),
    ]:
        with pytest.raises(errors.DatasetError, match=says):
            submit_dataset(broker, wrong, "grey@1", tmp_path / "out")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    submit_dataset(broker, tmp_path / "pictures", "grey@1", tmp_path / "out")
    scoring = JobFolder(tmp_path / "out").load().scoring
    assert (scoring.needs, scoring.keeps) == (("image",), ("path",))
