"""Run code that may hang, crash or eat memory in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from celeriac import errors
from celeriac.niceness import give_way, waited_s
from celeriac.parent import end_with_parent


def run_aside(  # noqa: PLR0913 - a process, and what is said when it fails
    module: str, arguments: Sequence[str], wanted: Mapping[str, Any], *,
    timeout_s: float, late: str, what: str,
    kind: Callable[[str], errors.CeleriacError], env: Mapping[str, str] | None = None,
    niceness: int = 0,
) -> dict[str, Any]:
    """What ``python -m module`` answers to ``wanted``; both are JSON, on its stdin and stdout.

    Its last answer counts, also if the process has not ended well after it. ``niceness``: so much
    more than ours it gives way to others; what it then waits for them is no part of ``timeout_s``,
    up to ten times that.

    Raises the error that it answers with, or one of ``kind``: ``late`` if it does not end in time
    (then it is killed with everything that it started), or how ``what`` ended.
    """
    wanted = {"caller": os.getpid(), "niceness": niceness, "wanted": wanted}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
        env={**os.environ, **env} if env else None,
    )
    try:
        words = _LastWords(process)
        out = _ask(process, json.dumps(wanted), timeout_s, gives_way=niceness > 0)
        how = f"{what} {_ended(process.returncode, words.text())}"
    except subprocess.TimeoutExpired as expired:
        out, how = _text(expired.output), late
    finally:
        _end(process)
    result = _last_answer(out)
    if result is None:
        raise kind(how)
    if result.get("error"):
        raise errors.from_wire(result["error"])
    return result


def _ask(
    process: subprocess.Popen[str], wanted: str, timeout_s: float, *, gives_way: bool
) -> str:
    """What the process answers. Raises TimeoutExpired with what there is so far."""
    began_s = time.monotonic()
    words: str | None = wanted
    left_s = timeout_s
    while True:
        try:
            return process.communicate(words, timeout=left_s)[0]
        except subprocess.TimeoutExpired:
            words = None  # it has them
            waited = waited_s(process.pid) if gives_way else 0.0
            most_s = timeout_s + min(waited, _MOST_WAITED * timeout_s)
            left_s = began_s + most_s - time.monotonic()
            if left_s <= 0:
                raise
            left_s = max(left_s, _SHORTEST_LOOK_S)


def answer_with(
    work: Callable[[dict[str, Any]], Iterable[dict[str, Any] | None]], *,
    told: Callable[[BaseException], errors.CeleriacError],
) -> int:
    """In that process: answer what stdin asks for. What a library prints goes to stderr.

    Each answer of ``work`` replaces the one before, and None takes it back: what holds if
    the process does not come to the next. ``told`` makes an error of ours of any other. The process
    ends with its caller, and where memory is short the kernel takes it first.
    """
    end_with_parent()  # whose thread waits in run_aside for as long as it lives
    asked = json.load(sys.stdin)
    if os.getppid() != asked["caller"]:  # it was killed before we asked for the signal
        return 1
    give_way(asked["niceness"])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        try:
            for answer in work(asked["wanted"]):
                _write(result, answer)
        except errors.CeleriacError as error:
            _write(result, {"error": error.to_wire()})
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises
            _write(result, {"error": told(error).to_wire()})
    return 0


class _LastWords:
    """What a process prints, of which only the end is kept: one that prints for as long as it may
    must not fill our memory."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._pipe, process.stderr = process.stderr, None  # ours, and not communicate's
        self._kept = ""
        self._thread = threading.Thread(target=self._read, name="last words", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """To be asked when the process has ended. What it has started may go on printing."""
        self._thread.join(_LAST_WORDS_S)
        return self._kept

    def _read(self) -> None:
        assert self._pipe is not None  # noqa: S101 - it was asked for
        with self._pipe as pipe:
            while text := pipe.read(_BLOCK_CHARACTERS):
                self._kept = (self._kept + text)[-_BLOCK_CHARACTERS:]


_SHORTEST_LOOK_S = 0.2
_MOST_WAITED = 10
"""So many times its own time a process may wait for others: nobody waits for it for ever."""
_BLOCK_CHARACTERS = 16_384
_LAST_WORDS_S = 1.0


def _write(result: TextIO, answer: dict[str, Any] | None) -> None:
    result.write(json.dumps(answer) + "\n")
    result.flush()


def _last_answer(out: str) -> dict[str, Any] | None:
    try:
        found = json.loads(out.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _text(out: str | bytes | None) -> str:
    """What a process wrote before its time was over: bytes, whatever was asked for."""
    return out.decode(errors="replace") if isinstance(out, bytes) else out or ""


def _ended(code: int, err: str) -> str:
    how = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
    last = errors.without_paths(err.strip().rpartition("\n")[2])
    return f"{how}{': ' if last else ''}{last}"


def _end(process: subprocess.Popen[str]) -> None:
    """End the process with everything that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
