"""What coroutines bring in one moment is done as one; old records are removed by a task."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.settings import ModerationSettings, Settings
from producer.applications.moderation.gathering import Gathered
from tasks import moderation
from tasks.schedule import beat_schedule


def test_one_piece_of_work_for_all() -> None:
    calls: list[list[int]] = []

    def work(numbers: list[int]) -> list[str]:
        calls.append(numbers)
        return [str(number) for number in numbers]

    async def run() -> list[object]:
        gathered = Gathered(work)
        first = await asyncio.gather(*(gathered.add([n, n + 100]) for n in range(5)))
        assert await gathered.add([]) == []
        return [*first, await gathered.add([7])]

    found = asyncio.run(run())
    assert found == [*([str(n), str(n + 100)] for n in range(5)), ["7"]]
    assert [len(call) for call in calls] == [10, 0, 1]


def test_an_error_is_everybodys_and_a_cancelled_one_nobodys() -> None:
    def work(numbers: list[int]) -> list[int]:
        if 13 in numbers:
            raise errors.StorageError("full")
        return numbers

    async def run() -> None:
        gathered = Gathered(work)
        outcomes = await asyncio.gather(
            gathered.add([1]), gathered.add([13]), return_exceptions=True
        )
        assert [type(one) for one in outcomes] == [errors.StorageError] * 2
        gone = asyncio.create_task(gathered.add([2]))
        await asyncio.sleep(0)
        gone.cancel()
        assert await gathered.add([3]) == [3]

    asyncio.run(run())


def test_the_task_removes_old_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(moderation=ModerationSettings(folder=tmp_path, audit_days=3))
    monkeypatch.setattr(moderation, "get_settings", lambda: settings)
    days = [
        (datetime.now(UTC) - timedelta(days=days)).strftime("%Y%m%d") for days in (0, 3, 5, 400)
    ]
    for day in days:
        (tmp_path / "audit" / day).mkdir(parents=True)
    moderation.expire.run()
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == sorted(days[:2])
    entry = beat_schedule(settings)["expire-moderation"]
    assert (entry["task"], entry["options"]["queue"]) == (moderation.expire.name, "maintenance")
