"""How passes that were timed are put into groups."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from celeriac.optimize.served import grouped
from celeriac.registry.manifest import PASS_SHARES, Passes


def test_groups_keep_the_mean_and_the_longest() -> None:
    took_s = [0.001 * number for number in range(1, 101)]
    random.Random(1).shuffle(took_s)
    means = grouped(took_s)
    assert len(means) == len(PASS_SHARES)
    assert list(means) == sorted(means)
    assert means[0] == pytest.approx(0.0105)
    assert means[-1] == pytest.approx(0.100)
    mean_s = sum(share * mean for share, mean in zip(PASS_SHARES, means, strict=True))
    assert mean_s == pytest.approx(0.0505, rel=0.01)


def test_few_passes_fill_every_group() -> None:
    assert grouped([0.002, 0.001]) == (0.001,) * 2 + (0.002,) * 6
    assert grouped([0.5]) == (0.5,) * len(PASS_SHARES)


def test_a_record_has_a_time_for_each_group() -> None:
    with pytest.raises(ValidationError, match="2 times; there are 8 groups"):
        Passes(items=1, pause_s=0, seconds=(0.1, 0.2))
