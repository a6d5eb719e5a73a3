"""celeriac.toml and the environment: typed, and clear about mistakes."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celeriac import errors
from celeriac.settings import hide_password, load_settings, variables

NIGHT = "[nightly.a]\ndataset = 'd'\n"
WHOLE = f"{NIGHT}output = 'o-{{date}}'\nmodel = 'm'\n"
OPTIONS = f"{WHOLE}[nightly.a.options]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "celeriac.toml"
    path.write_text(text)
    return path


def test_defaults_name_the_embedded_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings.broker_url == "redis://127.0.0.1:6389/0"


@pytest.mark.parametrize(("options", "then"), [
    ("", "?ssl_cert_reqs=required"),
    ("?ssl_cert_reqs=CERT_REQUIRED", "?ssl_cert_reqs=required"),  # as Celery has it
    ("?ssl_ca_certs=/etc/a%20b.pem", "?ssl_ca_certs=/etc/a%20b.pem&ssl_cert_reqs=required"),
    ("?ssl_cert_reqs=none", "?ssl_cert_reqs=none"),
])
def test_all_who_connect_check_the_certificate_alike(options: str, then: str) -> None:
    address = "rediss://:secret@h:1/0"
    settings = load_settings(environ={"CELERIAC_BROKER_URL": address + options})
    assert settings.broker_url == settings.cache_url == address + then
    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
    connection = app.connection()
    wanted = ssl.CERT_NONE if "none" in then else ssl.CERT_REQUIRED
    assert app.backend.connparams["ssl_cert_reqs"] == wanted
    assert connection.ssl["ssl_cert_reqs"] == wanted
    pool = redis.ConnectionPool.from_url(settings.broker_url)
    made: Any = pool.make_connection()
    assert made.cert_reqs == wanted
    assert made.ca_certs == app.backend.connparams.get("ssl_ca_certs")
    assert made.ca_certs == connection.ssl.get("ssl_ca_certs")


@pytest.mark.parametrize("section", ["BROKER", "CACHE"])
def test_an_unknown_check_of_the_certificate_is_refused(section: str) -> None:
    with pytest.raises(errors.ConfigError, match="ssl_cert_reqs is required, optional or none"):
        load_settings(environ={f"CELERIAC_{section}_URL": "rediss://h/0?ssl_cert_reqs=yes"})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[broker]\nurl = "redis://a:1/0"\n[models]\nroot = "there"\n')
    settings = load_settings(
        environ={
            "CELERIAC_CONFIG": str(path),
            "CELERIAC_BROKER_URL": "redis://b:2/0",
            "CELERIAC_STACK_FLOWER_PORT": "6001",
            "CELERIAC_MODELS_TRUSTED_TYPES": "a.B, c.D",
            "CELERIAC_ALERTS_COMMAND": "page --to 'the owner' a,b",
        }
    )
    assert settings.broker_url == "redis://b:2/0"
    assert settings.models.root == Path("there")
    assert settings.stack.flower_port == 6001
    assert settings.models.trusted_types == ("a.B", "c.D")
    assert settings.alerts.command == ["page", "--to", "the owner", "a,b"]


@pytest.mark.parametrize(("text", "roots"), [
    ("/data,s3://lake/in", ("/data", "s3://lake/in")),
    ('["/data", "s3://lake/in"]', ("/data", "s3://lake/in")),
    ("['/data']", ("/data",)),
    ("[]", ()),
    ("", ()),
    ("[data]", ("[data]",)),
])
def test_a_list_is_given_with_commas_or_as_in_the_file(text: str, roots: tuple[str, ...]) -> None:
    settings = load_settings(environ={
        "CELERIAC_GATEWAY_DATASET_ROOTS": text,
        "CELERIAC_ALERTS_COMMAND": '["page", "the owner"]',
    })
    assert settings.gateway.dataset_roots == roots
    assert settings.alerts.command == ["page", "the owner"]


def test_variables_of_an_orchestrator_are_not_ours() -> None:
    load_settings(
        environ={
            "CELERIAC_BROKER_PORT": "tcp://10.0.0.1:6379", "CELERIAC_SERVICE_HOST": "x",
            "CELERIAC_BROKER_SERVICE_PORT_REDIS": "6379", "CELERIAC_PORT": "tcp://10.0.0.1:80",
            "CELERIAC_BROKER_PORT_6379_TCP_ADDR": "10.0.0.1", "CELERIACS": "x",
        }
    )


@pytest.mark.parametrize("name", sorted(variables.OTHERS - {variables.CONFIG}))
def test_variables_of_our_own_are_no_settings(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_settings(environ={name: "x"})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CELERIAC_BROKER_ULR", "CELERIAC_BROKER_URL"),
        ("CELERIAC_BATHC_PROCESSES", "CELERIAC_STACK_BATCH_PROCESSES"),
        ("CELERIAC_BATCH_CHUNK_TIMEOUT", "CELERIAC_BATCH_CHUNK_TIMEOUT_S"),
        ("CELERIAC_STACK_FLOWR_PORT", "CELERIAC_STACK_FLOWER_PORT"),
    ],
)
def test_a_variable_that_is_misspelt_is_refused(name: str, meant: str) -> None:
    with pytest.raises(errors.ConfigError, match=f"{name}: .*did you mean {meant}"):
        load_settings(environ={name: "4"})


def test_one_that_is_like_no_setting_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    load_settings(environ={"CELERIAC_IMAGE_TAG": "3.1"})
    assert "CELERIAC_IMAGE_TAG: no such setting; it is ignored" in caplog.text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[broker]\nurll = "redis://a:1/0"', ["broker.urll", "did you mean 'url'"]),
        ("[brokr]\n", ["brokr", "did you mean 'broker'"]),
        ("[realtime]\ntimeout_s = 0", ["realtime.timeout_s", "greater than 0"]),
        ('[nightly.a]\ndataset = "d"\nmodel = "m"\noutput = "o"\nat = "25:00"',
         ["nightly.a.at: write it as HH:MM, from 00:00 to 23:59 (found '25:00')"]),
        ('[nightly.a]\ndataste = "d"', ["did you mean 'dataset'"]),
        ("[broker\n", ["not valid TOML"]),
        ('[broker]\nurl = "localhost:6379"', ["localhost:6379", "redis://host:6379/0"]),
        ('[broker]\nurl = "http://a:1"', ["not usable"]),
        ('[broker]\nurl = "redis://a:notaport/0"', ["not usable"]),
        ('[broker]\nurl = "redis://a:1/main"', ["not usable"]),
        ('[broker]\nurl = "redis://a:1/0/1"', ["not usable"]),
        ("broker = 3", ["broker"]),
        (f"{NIGHT}output = 'o'", ["nightly.a.output: holds no {date}"]),
        (f"{NIGHT}output = 'o-{{day}}'", ["nightly.a.output: {day} stands for nothing"]),
        (f"{NIGHT}output = 'o-{{date:%Y}}'", ["nightly.a.output: is the same for several dates"]),
        (f"{NIGHT}output = 'o-{{date:%G-%m-%d}}'", ["is the same for several dates"]),  # 1 January
        (f"{NIGHT}output = '{{date:%B}}'", ["{date:%B} is no form of a date", "made of %Y, %m"]),
        (f"{NIGHT}output = '{{date:}}'", ["{date:} stands for nothing"]),
        (f"{NIGHT}output = 'o-{{date}}'\nmodel = 'A B'", ["nightly.a.model", "not a model name"]),
        (f"{WHOLE}{WHOLE.replace('.a', '.b').replace('date}', 'date:%Y-%m-%d}/')}",
         ["nightly: a and b have one output (o-{date:%Y-%m-%d}/)"]),
        (f"{WHOLE}{WHOLE.replace('.a', '.b')}kind = 'drift'", ["nightly: a and b have one output"]),
        (f"{WHOLE}time_zone = 'Europe/Berln'", ["time_zone", "did you mean 'Europe/Berlin'"]),
        (f"{WHOLE}time_zone = 'Europe'", ["nightly.a.time_zone: is no time zone"]),
        (f"{WHOLE}missed = 'rerun'", ["nightly.a.missed", "'report' or 'run'"]),
        (f"{WHOLE}first_date = 'soon'", ["nightly.a.first_date", "date"]),
        (f"{OPTIONS}text_colum = 'x'", ["nightly.a.options", "did you mean 'text_column'"]),
        (f"{OPTIONS}chunk_rows = 0", ["nightly.a.options.chunk_rows", "greater than"]),
        (f"{OPTIONS}output_format = 'xlsx'", ["nightly.a.options.output_format", "'parquet'"]),
        (f"{OPTIONS}aggregate = {{bye = 'x'}}", ["options.aggregate.bye", "did you mean 'by'"]),
        (f"{OPTIONS}aggregate = {{by = []}}", ["options.aggregate.by", "at least 1"]),
        (f"{OPTIONS}aggregate = {{by = 'x', quantiles = {{y = [2]}}}}", ["quantiles.y.0"]),
        ("[alerts]\nwebhook = 'host/hook'", ["alerts.webhook: is no address", "https://host"]),
        ("[alerts]\nwebhook = 'https://me:secret@host/hook'", ["password", "me:***@host"]),
        ("[alerts]\nwebhook = 'https://host/to a page'", ["alerts.webhook: is no address"]),
        ("[alerts]\nwebhok = ''", ["did you mean 'webhook'"]),
        ("[gateway.keys.shop]\nrate_per_s = 5", ["gateway.keys.shop.sha256: it is missing"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(errors.ConfigError) as raised:
        load_settings(path, environ={})
    for part in parts:
        assert part in raised.value.message


def test_a_schedule_that_rests_may_have_the_output_of_another(tmp_path: Path) -> None:
    path = write(tmp_path, f"{WHOLE}enabled = false\n{WHOLE.replace('.a', '.b')}")
    assert list(load_settings(path, environ={}).nightly) == ["a", "b"]


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="no such file"):
        load_settings(environ={"CELERIAC_CONFIG": str(tmp_path / "none.toml")})


def test_passwords_are_hidden() -> None:
    assert hide_password("redis://:secret@host:1/0") == "redis://:***@host:1/0"
    assert hide_password("redis://me:secret@host:1/0") == "redis://me:***@host:1/0"
    assert hide_password("redis://host:1/0") == "redis://host:1/0"
    with pytest.raises(errors.ConfigError) as raised:
        load_settings(environ={"CELERIAC_BROKER_URL": "ftp://:secret@host/0"})
    assert "secret" not in raised.value.message
