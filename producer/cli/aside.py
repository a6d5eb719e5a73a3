"""Work in a forked child: what it loads and allocates is gone when the command goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from celeriac import errors
from celeriac.parent import end_with_parent

Work = Callable[[], dict[str, Any]]
"""Its result is JSON."""


def run(work: Work) -> dict[str, Any]:
    """What ``work`` returns. To be called before this process has connections or threads.

    It raises here what it raises there: errors of ours, files that cannot be read or written, and
    Ctrl-C, which waits for the child to tidy up. Of any other exception the child shows the
    traceback, and this process exits with 1. The child ends with this process, even by kill -9.
    Where there is no such signal (only Linux has it) the work is done here.
    """
    if sys.platform != "linux":
        return work()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else the child would print it, too
    reader, writer = os.pipe()
    caller = os.getpid()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if not child:
        _be_child(work, writer, caller, held)
    os.close(writer)
    text, status = _wait(child, reader, held)
    return _result(text, os.waitstatus_to_exitcode(status))


def _wait(child: int, reader: int, held: set[int | signal.Signals]) -> tuple[str, int]:
    """What the child has written, and its status. It has ended then, whatever happens."""
    try:
        with os.fdopen(reader) as pipe:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            text = pipe.read()
        return text, os.waitpid(child, 0)[1]
    except BaseException:
        _interrupt(child)
        raise


def _interrupt(child: int) -> None:
    """Ctrl-C may have reached this process alone. A second one waits for no tidying up."""
    with suppress(ProcessLookupError, ChildProcessError):  # it has ended, and that is known
        try:
            os.kill(child, signal.SIGINT)
            os.waitpid(child, 0)
        except KeyboardInterrupt:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _result(text: str, code: int) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(text)
    except ValueError:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise errors.CeleriacError(
            f"the process that prepared the job was ended {how}; `celeriac batch list` shows "
            "whether the job is there"
        ) from None
    if "error" in told:
        raise errors.from_wire(told["error"])
    if "file" in told:
        raise OSError(*told["file"])
    if "interrupted" in told:
        raise KeyboardInterrupt
    if "traceback" in told:
        raise SystemExit(1)
    result: dict[str, Any] = told["result"]
    return result


def _be_child(work: Work, writer: int, caller: int, held: set[int | signal.Signals]) -> NoReturn:
    """Nothing of the parent's goes on here: neither its handlers at exit nor what called us."""
    code = 1
    try:
        end_with_parent()
        if os.getppid() == caller:  # else it ended before we asked for the signal
            told = json.dumps(_told(work, held))
            with os.fdopen(writer, "w") as pipe:
                pipe.write(told + "\n")
            code = 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _told(work: Work, held: set[int | signal.Signals]) -> dict[str, Any]:
    """What the parent shall know, once the work is done."""
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _stop_once)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        result = work()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return {"result": result}
    except KeyboardInterrupt:
        return {"interrupted": True}
    except errors.CeleriacError as error:
        return {"error": error.to_wire()}
    except OSError as error:
        if isinstance(error.filename, (str, bytes)) and error.strerror:
            return {"file": [error.errno, error.strerror, os.fsdecode(error.filename)]}
        _show(error)
    except BaseException as error:  # noqa: BLE001 - as if it had been raised in the parent
        _show(error)
    return {"traceback": True}


def _show(error: BaseException) -> None:
    sys.excepthook(type(error), error, error.__traceback__)


def _stop_once(*_: object) -> NoReturn:
    """Ctrl-C reaches us from the terminal and from the parent; the second must not disturb the
    tidying up after the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
