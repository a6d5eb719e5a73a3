"""The scripts that a stranger runs first."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted(path for path in (ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]
BASH = shutil.which("bash") or "bash"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run_and_stops_at_the_first_error(script: Path) -> None:
    assert script.stat().st_mode & stat.S_IXUSR
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert any(line.startswith(("set -euo pipefail", "set -Eeuo pipefail")) for line in lines)
    subprocess.run([BASH, "-n", script], check=True)


def test_ci_runs_the_tests() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec scripts/test"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!{BASH}\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts and requirements alone, with a ``bin`` that shadows every Python."""
    for name in ("scripts", "requirements.txt", "requirements-demo.txt", "requirements-dev.txt",
                 "pyproject.toml"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def run(checkout: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"} | variables
    return subprocess.run(
        [BASH, *words], cwd=checkout, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )


def test_without_a_new_enough_python_the_debian_packages_are_named(checkout: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        program(checkout / "bin" / name, "exit 1")
    done = run(checkout, "scripts/setup")
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed, and there is none here" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


NEWER = f"""
if [ "$1" = -c ]; then
    exec {sys.executable} -c 'import platform, sys
sys.version_info = (3, 14, 0, "final", 0)
platform.python_version = lambda: "3.14.0"
exec(sys.argv[1])' "$2"
fi
exit 1
"""


def test_a_python_that_is_newer_than_the_packages_is_refused(checkout: Path) -> None:
    program(checkout / "bin" / "python3", NEWER)
    for name in ("python3.11", "python3.12", "python3.13"):
        program(checkout / "bin" / name, "exit 1")
    done = run(checkout, "scripts/setup")
    assert done.returncode == 1
    assert "3.12 or 3.13 is needed, and python3 is 3.14.0 here" in done.stderr
    assert not (checkout / ".venv").exists()


def test_without_venv_its_debian_package_is_named(checkout: Path) -> None:
    program(checkout / "bin" / "python3", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    done = run(checkout, "scripts/setup")
    assert done.returncode == 1
    assert "(Debian: apt install python3-venv)" in done.stderr
    assert not (checkout / ".venv").exists()


def test_another_build_of_torch_is_no_choice(checkout: Path) -> None:
    done = run(checkout, "scripts/setup", CELERIAC_TORCH="tpu")
    assert done.returncode == 1
    assert "'cpu' or 'gpu', not 'tpu'" in done.stderr


VENV_OF_NOTHING = """
case "$1$2" in
    -mvenv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    -mpip) echo "$*" >>"$LOG"; case "$*" in $REFUSED) exit 1 ;; esac ;;
    -cpu | -gpu) cat >/dev/null; exit 1 ;;
esac
exit 0
"""


@pytest.fixture
def log(checkout: Path) -> Path:
    """What pip was asked for by a Python that installs nothing."""
    program(checkout / "bin" / "python3", VENV_OF_NOTHING)
    program(checkout / "bin" / "uname", 'if [ "$1" = -s ]; then echo Linux; else echo x86_64; fi')
    return checkout / "pip.log"


def asked(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "torch" in line]


def test_the_cpu_build_is_asked_for_where_packages_are_found_here(
    checkout: Path, log: Path
) -> None:
    done = run(checkout, "scripts/setup", LOG=str(log), REFUSED="none")
    assert done.returncode == 0, done.stderr
    assert len(asked(log)) == 1
    assert asked(log)[0].endswith("+cpu")
    assert "about 390 MB" in done.stderr


def test_then_pytorchs_own_index_is_asked(checkout: Path, log: Path) -> None:
    done = run(checkout, "scripts/setup", LOG=str(log), REFUSED="*+cpu")
    assert done.returncode == 0, done.stderr
    assert "--index-url https://download.pytorch.org/whl/cpu" in asked(log)[1]


def test_a_gpu_build_is_never_taken_unasked(checkout: Path, log: Path) -> None:
    done = run(checkout, "scripts/setup", LOG=str(log), REFUSED="*torch*")
    assert done.returncode == 1
    assert "CELERIAC_TORCH=gpu" in done.stderr
    assert all("+cpu" in line or "whl/cpu" in line for line in asked(log))


def test_a_gpu_build_is_taken_when_asked(checkout: Path, log: Path) -> None:
    done = run(checkout, "scripts/setup", LOG=str(log), REFUSED="none", CELERIAC_TORCH="gpu")
    assert done.returncode == 0, done.stderr
    assert [line for line in asked(log) if "cpu" in line] == []
    assert len(asked(log)) == 2  # what was there is removed first


def test_the_second_time_nothing_is_installed(checkout: Path, log: Path) -> None:
    for _ in range(2):
        assert run(checkout, "scripts/setup", "dev", LOG=str(log), REFUSED="none").returncode == 0
    installs = [line for line in log.read_text().splitlines() if " install " in line]
    assert len(installs) == len(set(installs)) == 4  # torch, requirements, itself, dev


def test_a_changed_requirement_is_installed(checkout: Path, log: Path) -> None:
    assert run(checkout, "scripts/setup", LOG=str(log), REFUSED="none").returncode == 0
    with (checkout / "requirements.txt").open("a") as file:
        file.write("another==1.0\n")
    log.unlink()
    assert run(checkout, "scripts/setup", LOG=str(log), REFUSED="none").returncode == 0
    assert "install -r requirements.txt" in log.read_text()


def test_a_set_up_that_was_cut_short_begins_anew(checkout: Path, log: Path) -> None:
    assert run(checkout, "scripts/setup", LOG=str(log), REFUSED="none").returncode == 0
    (checkout / ".venv" / "setup-running").touch()
    (checkout / ".venv" / "half").touch()
    done = run(checkout, "scripts/setup", LOG=str(log), REFUSED="none")
    assert "Setting up .venv" in done.stderr
    assert not (checkout / ".venv" / "half").exists()
    assert not (checkout / ".venv" / "setup-running").exists()


def test_an_unknown_benchmark_lists_the_known(checkout: Path) -> None:
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "realtime.py").touch()
    (checkout / "benchmarks" / "__main__.py").touch()
    done = run(checkout, "scripts/bench", "nonsense")
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("benchmarks here: realtime")


@pytest.mark.parametrize(("tests", "checks"), [(0, 0), (0, 1), (1, 0)])
def test_what_fails_of_tests_and_checks_fails_the_run(
    checkout: Path, tests: int, checks: int
) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    program(checkout / "scripts" / "setup", "exit 0")
    program(checkout / "scripts" / "check", f"echo 'an unused import'; exit {checks}")
    program(
        checkout / ".venv" / "bin" / "python",
        f'case "$*" in *pytest*) echo "9 passed"; exit {tests} ;; esac',
    )
    done = run(checkout, "scripts/test")
    assert done.returncode == max(tests, checks)
    assert ("an unused import\nscripts/check has failed" in done.stderr) == bool(checks)
    assert "9 passed" in done.stdout


TEST = """
import os
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(2))
def test_once(number):
    seen = Path(f"seen-{name}-{{number}}")
    has_run = seen.exists()
    seen.touch()
    assert "{name}" != "{dies}" or os._exit(1)
    assert has_run and "{name}" != "{fails}"

def test_well():
    pass
"""


@pytest.mark.parametrize(("files", "fails", "dies", "returncode"), [
    ("abc", "", "", 0), ("abc", "b", "", 1), ("abcd", "", "", 1), ("a", "", "a", 1),
])
def test_those_of_few_files_that_fail_beside_others_run_once_more_alone_and_are_named(
    checkout: Path, files: str, fails: str, dies: str, returncode: int
) -> None:
    for name in ("setup", "check"):
        program(checkout / "scripts" / name, "exit 0")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    program(checkout / ".venv" / "bin" / "python", f"""
        [ "$3" = run ] || exit 0  # of coverage
        exec {sys.executable} "${{@:4}}"
    """)
    (checkout / "pyproject.toml").unlink()
    (checkout / "tests").mkdir()
    for name in files:
        text = TEST.format(name=name, fails=fails, dies=dies)
        (checkout / "tests" / f"test_{name}.py").write_text(text)
    done = run(checkout, "scripts/test", TEST_PROCESSES="1")
    assert done.returncode == returncode, done.stdout + done.stderr
    named = done.stdout.partition("Failed beside the others (above), and passed alone:")[2]
    assert named.count("FAILED tests/test_") == (0 if returncode else 2 * len(files))
