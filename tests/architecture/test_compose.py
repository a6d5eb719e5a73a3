"""``docker-compose.yml`` and ``Dockerfile`` as data: they fit the code, and open nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner
from typer.testing import CliRunner as TyperRunner

from celeriac.settings import Settings
from producer.cli.main import build
from workers import gpu_workers
from workers.roles import ROLES, queues_in, role_for

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "redis"}
WORKERS = {name: service for name, service in OURS.items() if "worker" in service["command"]}
GPU = {name: service for name, service in SERVICES.items() if service.get("profiles") == ["gpu"]}


def known_variables() -> set[str]:
    return {
        f"CELERIAC_{section}_{name}".upper()
        for section, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", ())
    }


def role_of(service: dict[str, Any]) -> list[str]:
    command = service["command"]
    return command[2:] if command[:2] == ["celeriac", "worker"] else queues_in(command)


def test_there_is_one_service_for_each_role() -> None:
    served = [role_of(service) for service in WORKERS.values()]
    assert sorted(served) == sorted([role.name] for role in ROLES)


@pytest.mark.parametrize("name", GPU)
def test_a_gpu_service_starts_a_worker_on_each_gpu(name: str) -> None:
    command = GPU[name]["command"]
    assert command[:2] == ["celeriac", "worker"]
    assert command[2] in gpu_workers.GPU_ROLES
    shown = TyperRunner().invoke(build(), ["worker", "--help"])
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("name", sorted(WORKERS.keys() - GPU.keys()))
def test_the_command_of_a_worker_is_one_that_celery_and_the_role_take(name: str) -> None:
    command = WORKERS[name]["command"]
    assert command[:4] == ["celery", "-A", "workers.app", "worker"]
    role_for(queues_in(command))
    worker = celery_command.commands["worker"]
    context = worker.make_context("worker", command[4:], resilient_parsing=True)
    assert context.params["hostname"].startswith(f"{queues_in(command)[0]}@")


@pytest.mark.parametrize("name", ["beat", "flower"])
def test_the_other_commands_exist(name: str) -> None:
    command = SERVICES[name]["command"]
    assert command[:4] == ["celery", "-A", "workers.app", name]
    shown = CliRunner().invoke(celery_command, [name, "--help"])
    assert shown.exit_code == 0, shown.output


def test_beat_runs_once_and_remembers_what_it_sent() -> None:
    beats = [name for name, service in OURS.items() if "beat" in service["command"]]
    assert beats == ["beat"]
    assert SERVICES["beat"]["deploy"]["replicas"] == 1
    command = SERVICES["beat"]["command"]
    folder = Path(command[command.index("-s") + 1]).parent
    assert f"beat:{folder}" in SERVICES["beat"]["volumes"]


def test_gpu_services_are_in_their_profile_and_reserve_a_gpu() -> None:
    assert set(GPU) == {"worker-realtime-gpu", "worker-batch-gpu"}
    for service in GPU.values():
        device = service["deploy"]["resources"]["reservations"]["devices"][0]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        assert service["build"]["args"] == {"TORCH": "gpu"}
    assert not any("profiles" in SERVICES[name] for name in set(SERVICES) - set(GPU))


@pytest.mark.parametrize("name", OURS)
def test_everybody_reads_the_settings_beside_the_file(name: str) -> None:
    (config,) = OURS[name]["configs"]
    assert config == {"source": "settings", "target": "/app/celeriac.toml"}
    assert "WORKDIR /app\n" in (ROOT / "Dockerfile").read_text()
    assert (ROOT / COMPOSE["configs"]["settings"]["file"]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    assert set(OURS[name]["environment"]) <= known_variables() | {"CELERIAC_CONFIG"}


def test_settings_of_the_image_are_settings() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"CELERIAC_\w+", text)) <= known_variables()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert service["stop_grace_period"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_open_beyond_this_machine(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in ("flower", "gateway"))


def test_flower_demands_a_password() -> None:
    assert SERVICES["flower"]["environment"]["CELERIAC_FLOWER_BASIC_AUTH"].startswith(
        "${FLOWER_BASIC_AUTH:?"
    )


def test_the_gateway_demands_keys_and_its_command_exists() -> None:
    service = SERVICES["gateway"]
    (secret,) = service["secrets"]
    assert service["environment"]["CELERIAC_CONFIG"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret]["file"].startswith("${GATEWAY_KEYS:?")
    shown = TyperRunner().invoke(build(), [*service["command"][1:], "--help"])
    assert shown.exit_code == 0, shown.output
    assert service["command"][0] == "celeriac"


@pytest.mark.parametrize("name", ["gateway", "maintenance"])
def test_who_writes_and_who_removes_records_of_decisions_share_them(name: str) -> None:
    folder = SERVICES[name]["environment"]["CELERIAC_MODERATION_FOLDER"]
    assert f"moderation:{folder}" in SERVICES[name]["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_the_image_has_each_folder_that_is_mounted_as_one_of_its_user(name: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (made,) = re.findall(r"install -d -o celeriac -g celeriac (.+)", dockerfile)
    mounted = {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}
    assert mounted <= set(made.split())


def test_redis_keeps_what_it_is_given() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def test_volumes_are_declared_and_used() -> None:
    used = {volume.split(":")[0] for s in SERVICES.values() for volume in s.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_images_are_pinned() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    base = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    images = [*base, SERVICES["redis"]["image"]]
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images), images


def test_the_image_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    user = lines.index("USER celeriac")
    assert not any(line.startswith(("RUN", "COPY")) for line in lines[user:])


def test_the_image_gets_all_that_it_copies() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in allowed or f"!{source}/" in allowed, source


def test_our_modules_are_compiled_in_the_image() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = " ".join(re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)).split()
    modules = {name for name in copied if (ROOT / name).is_dir() or name.endswith(".py")}
    (compiled,) = re.findall(r"python -m compileall -q (.+) \\$", text, re.MULTILINE)
    assert set(compiled.split()) == modules


def test_every_check_of_a_worker_reads_its_heartbeat() -> None:
    for service in WORKERS.values():
        assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "workers.healthcheck"]
