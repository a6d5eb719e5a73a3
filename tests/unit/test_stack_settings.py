"""What the stack hands to its children, and the lock on its state folder."""

from __future__ import annotations

import fcntl
import os
from datetime import date
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.settings import (
    AlertSettings,
    BrokerSettings,
    DriftSettings,
    FlowerSettings,
    GatewaySettings,
    KeySettings,
    LogSettings,
    ModelsSettings,
    ModerationSettings,
    RealtimeSettings,
    Settings,
    StackSettings,
    WorkerSettings,
    load_settings,
)
from celeriac.settings.adapt import AdaptSettings
from celeriac.settings.nightly import AggregateSettings, JobOptions, NightlySettings
from workers import child_settings, commands, stack
from workers.cli.worker import worker
from workers.lock import StateLock


def test_children_get_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(
        broker=BrokerSettings(url="redis://:pass%20word@127.0.0.1:7000/3", socket_timeout_s=7.5),
        stack=StackSettings(state_dir=tmp_path / "a folder", redis_port=7001, batch_processes=2),
        flower=FlowerSettings(basic_auth="ann:se=cret"),
        models=ModelsSettings(root=tmp_path / "models", trusted_types=("a.B", "c.D")),
        realtime=RealtimeSettings(event_sample=0.25),
        log=LogSettings(level="DEBUG", format="json"),
        alerts=AlertSettings(
            webhook="https://a/b?c=d,e", command=["page", "the owner", "a,b"], secret="k=1"
        ),
        nightly={
            "réviews of \"films\"": NightlySettings(
                dataset="in/{date}\\x.csv", model="reviews@2", output="out/{date}", enabled=False,
                first_date=date(2026, 11, 22), time_zone="Europe/Berlin",
                options=JobOptions(
                    keep_columns=("a\"b", "c"), merge=True, expires_s=3_600,
                    aggregate=AggregateSettings(
                        by=("product",), share={"pre diction": "positive", "ok": True, "n": 3},
                        quantiles={"p": (0.5, 0.95)},
                    ),
                ),
            )
        },
        drift=DriftSettings(adapt={"delays": AdaptSettings(
            retrain="shop.retrain", queue="training", labelled="/in/*.csv", label="la \"bel\"",
            on=("concept_drift",),
        )}),
        gateway=GatewaySettings(
            port=8100, dataset_roots=("/a", "/b,c"), webhook_secret="s=cret",
            keys={"shop 1": KeySettings(sha256="0" * 64, scopes=("infer", "batch"), burst=5)},
        ),
        moderation=ModerationSettings(folder=tmp_path / "records", digest_key="k=1"),
    )
    config = tmp_path / "tables.toml"
    config.write_text(child_settings.tables_toml(settings), encoding="utf-8")
    assert load_settings(config, child_settings.environment(settings)) == settings


def test_children_of_the_embedded_server_get_its_address_and_absolute_paths() -> None:
    settings = Settings(stack=StackSettings(redis_port=7001))
    child = load_settings(None, child_settings.environment(settings))
    assert child.broker.url == "redis://127.0.0.1:7001/0"
    assert child.stack.state_dir == Path(".celeriac").absolute()
    assert child.models.root == Path("models").absolute()


def test_paths_of_a_night_are_where_the_stack_was_started(tmp_path: Path) -> None:
    night = NightlySettings(
        dataset="in/{date}.csv", ready="{date}.ok", model="m", output="s3://bucket/{date}"
    )
    found = child_settings.absolute(Settings(nightly={"a": night})).nightly["a"]
    assert found.dataset == str(Path("in/{date}.csv").absolute())
    assert found.ready == str(Path("{date}.ok").absolute())
    assert found.output == "s3://bucket/{date}"


def test_folders_of_the_gateway_are_where_the_stack_was_started() -> None:
    child = load_settings(None, child_settings.environment(Settings(
        gateway=GatewaySettings(
            dataset_roots=("in/{tenant}", "s3://lake/in"), output_roots=("out",)
        ),
        moderation=ModerationSettings(policy="policy.toml"),
    )))
    assert child.gateway.dataset_roots == (str(Path("in/{tenant}").absolute()), "s3://lake/in")
    assert child.gateway.output_roots == (str(Path("out").absolute()),)
    assert child.moderation.folder == Path(".celeriac/moderation").absolute()
    assert child.moderation.policy == str(Path("policy.toml").absolute())
    assert load_settings(None, child_settings.environment(Settings())).moderation.policy == ""


def test_the_command_of_a_worker() -> None:
    command = commands.worker_command("batch.cpu")
    assert command[1:] == [
        "-m", "workers.celery_command", "-A", "workers.app", "worker", "-Q", "batch.cpu",
        "-n", "batch.cpu@%h", "--without-mingle", "--without-gossip",
    ]  # fmt: skip
    assert commands.worker_command("batch.cpu", 2)[-2:] == ["-c", "2"]


def test_a_second_worker_of_a_role_can_have_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr("workers.cli.worker.environment", lambda settings: {})
    monkeypatch.setattr(os, "execv", lambda path, argv: ran.append(argv))
    monkeypatch.setenv("CELERIAC_CONFIG", "")  # what the command sets is undone
    monkeypatch.chdir(tmp_path)
    worker("batch.cpu", concurrency=0, name="batch.cpu-2")
    assert ran[0][ran[0].index("-n") + 1] == "batch.cpu-2@%h"
    for role, name in (("batch.cpu", "a@b"), ("realtime.gpu", "second")):
        with pytest.raises(errors.ConfigError, match="--name"):
            worker(role, concurrency=0, name=name)


@pytest.mark.parametrize("has_file", [True, False])
def test_a_worker_reads_the_file_of_the_folder_where_it_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_file: bool
) -> None:
    checkout, folder = tmp_path / "checkout", tmp_path / "folder"
    checkout.mkdir()
    folder.mkdir()
    monkeypatch.setattr("workers.cli.worker.ROOT", checkout)
    monkeypatch.setattr("workers.cli.worker.environment", lambda settings: {})
    monkeypatch.setattr(os, "execv", lambda path, argv: None)
    monkeypatch.setenv("CELERIAC_CONFIG", "")  # what the command sets is undone
    monkeypatch.chdir(folder)
    night = 'dataset = "/lake/{date}.csv"\nmodel = "reviews"\noutput = "/out/{date}"\n'
    (checkout / "celeriac.toml").write_text(f"[nightly.other]\n{night}", encoding="utf-8")
    if has_file:
        Path("celeriac.toml").write_text(f"[nightly.reviews]\n{night}", encoding="utf-8")
    worker("maintenance", concurrency=0, name="")
    assert Path.cwd() == checkout
    assert list(load_settings().nightly) == (["reviews"] if has_file else [])


def test_a_worker_gets_the_time_that_its_own_bounds_need() -> None:
    assert commands.drain_s(Settings()) == 30
    assert commands.drain_s(Settings(worker=WorkerSettings(exit_timeout_s=60))) == 130


def test_a_registry_has_models_once_it_holds_a_version(tmp_path: Path) -> None:
    settings = Settings(models=ModelsSettings(root=tmp_path))
    assert not stack.has_models(settings)
    version = tmp_path / "reviews" / "1"
    version.mkdir(parents=True)
    assert not stack.has_models(settings)
    (version / "model.json").touch()
    assert stack.has_models(settings)


def test_the_end_of_a_large_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert stack.tail(log, lines=2) == "line 99998\nline 99999"
    assert "no log" in stack.tail(tmp_path / "none.log")


def test_flower_open_to_all_is_refused_before_anything_starts(tmp_path: Path) -> None:
    settings = Settings(
        stack=StackSettings(state_dir=tmp_path), flower=FlowerSettings(host="0.0.0.0")
    )
    with pytest.raises(errors.ConfigError, match="set a password"):
        stack.Stack(settings).start()
    assert [one.name for one in tmp_path.iterdir()] == ["lock"]


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = StateLock(tmp_path / "state"), StateLock(tmp_path / "state")
    assert second.holder() is None
    first.acquire()
    assert second.holder() == os.getpid()
    with pytest.raises(errors.ConfigError, match=rf"pid {os.getpid()}\).*celeriac down"):
        second.acquire()
    second.release()
    assert second.holder() == os.getpid()
    first.release()
    assert second.holder() is None
    second.acquire()
    second.release()


def test_the_pid_of_a_dead_holder_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1\n")
    assert StateLock(tmp_path).holder() is None


def test_a_holder_that_has_not_signed_yet_is_still_a_holder(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.ConfigError, match="pid unknown"):
            StateLock(tmp_path).acquire()
