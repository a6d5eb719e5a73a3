"""The watch over a stream, as a policy: what one look at a version's items makes of its standing.

Clock and counts are passed in. A version has at most one open episode of each kind, in which its
features join: many that change together are one alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import msgspec.structs
import numpy as np

from celeriac.drift import breaches
from celeriac.drift.calibration import LOOKS_PER_WINDOW
from celeriac.drift.counted import MOST_FIELDS, Stretch
from celeriac.drift.episodes import Hysteresis, Look, Watched, step
from celeriac.drift.events import DriftEvent
from celeriac.drift.profile import FeatureProfile
from celeriac.drift.records import State
from celeriac.drift.standing import (
    ENDED_KEPT,
    KINDS,
    REFUSED,
    EndedEpisode,
    FeatureStanding,
    Kind,
    Mark,
    OpenEpisode,
    Standing,
)
from celeriac.drift.tally import Standard, Tally, unpack
from celeriac.drift.window import Bucket, FeatureLook, Window, WindowRule, look_at, newest
from celeriac.settings import DriftSettings

LEAST_QUALITY_ROWS = 100
"""With fewer items, nothing is said of their nulls."""
MOST_REFUSED = 0.2
"""Of all items: some callers make mistakes, a flood of them is broken data."""
MOST_WINDOWS = 4
"""Where items are refused, so many times the items of a window are looked at: then up to seven of
eight may be refused, and the others still say whether they drift."""
NAMED = 5
"""Features that a sentence names, at most."""


class Seen(NamedTuple):
    """What has been counted of late."""

    buckets: Sequence[Bucket]
    rows: int
    """Items that were counted ..."""
    came: int
    """... of so many."""
    mark: Mark
    new_rows: int
    """Items of both kinds since the last look ..."""
    new_sound: int
    """... and those that were counted since the last look at how they are distributed."""
    refused: int = 0
    """Items that are none, beside ``rows``."""
    since_s: float = 0.0
    """When the oldest of all these were counted."""
    fields: int = 0
    """By so many fields in Redis."""

    @property
    def items(self) -> int:
        return self.rows + self.refused


def window_rule(settings: DriftSettings) -> WindowRule:
    """As the settings have it."""
    return WindowRule(
        rows=settings.window_rows, rows_between_alarms=settings.rows_between_alarms
    )


def gather(
    standard: Standard, stretches: Iterable[Stretch], mark: Mark, rule: WindowRule
) -> Seen:
    """Add up what the processes have counted, the newest first, until the window is full of sound
    items, or there are :data:`MOST_WINDOWS` times as many in all."""
    sums: dict[float, Tally] = {}
    rows = items = came = fields = 0
    for stretch in stretches:
        is_full = rows >= rule.rows or items >= MOST_WINDOWS * rule.rows
        if is_full and stretch.start_s not in sums:
            break
        found = unpack(standard, stretch.data)
        if found is None:
            continue
        rows, items = rows + found.rows, items + found.items
        came, fields = came + found.seen, fields + 1
        held = sums.setdefault(stretch.start_s, found)
        if held is not found:
            held.add(found)
    newest_s = max(sums, default=0.0)
    every = {at: one.items for at, one in sums.items()}
    sound = {at: one.rows for at, one in sums.items()}
    return Seen(
        buckets=[Bucket(start_s=at, counts=standard.split(sums[at].counts)) for at in sums],
        rows=sum(sound.values()), came=came,
        new_rows=_new_rows(every, mark.start_s, mark.rows),
        new_sound=_new_rows(sound, mark.judged_s, mark.judged_rows),
        mark=Mark(newest_s, every[newest_s], newest_s, sound[newest_s]) if sums else mark,
        refused=sum(one.refused for one in sums.values()), since_s=min(sums, default=0.0),
        fields=fields,
    )


def _new_rows(rows: Mapping[float, int], start_s: float, before: int) -> int:
    """Of ``rows`` by stretch of time, those beyond ``before`` of the one that began then."""
    if not rows or max(rows) < start_s:  # a clock was ahead: it says nothing of these
        start_s, before = 0.0, 0
    found = sum(some for at, some in rows.items() if at >= start_s)
    return max(0, found - (before if start_s in rows else 0))


def unwatched(
    model: str, version: int, state: Literal["no_profile", "not_enough_data"], now_s: float
) -> Standing:
    """Of a version of which nothing is known."""
    return Standing(
        model=model, version=version, state=state, since_s=now_s, watched_at_s=now_s
    )


def look(
    standing: Standing, standard: Standard, seen: Seen, rule: WindowRule, now_s: float
) -> Standing:
    """Look at the items that were counted; what is to be told is ``unsent`` then.

    Without enough new ones since the last look, what was found stands: thresholds are made for
    looks as dense as :data:`LOOKS_PER_WINDOW`, and the same items are not three looks. Refused
    items count for the look at refused items alone.
    """
    standing = _of_profile(standing, standard, now_s)
    standing = _filling(standing, seen, rule, now_s)
    if seen.new_rows < _least_new(rule):
        return standing
    window = newest(seen.buckets, rule, now_s)
    if window is None:
        return standing
    return _Looking(standing, standard, window, rule, now_s).step(seen)


def _least_new(rule: WindowRule) -> int:
    return max(1, rule.rows // LOOKS_PER_WINDOW)


def _filling(standing: Standing, seen: Seen, rule: WindowRule, now_s: float) -> Standing:
    """When the window is full, at the average pace of what is in it, pauses included."""
    span_s = max(now_s - seen.since_s, 1.0)
    pace = seen.items / span_s
    kept_s = min(rule.most_age_s, MOST_FIELDS * span_s / max(seen.fields, 1))
    lacking = max(0, rule.rows - seen.items)
    return msgspec.structs.replace(
        standing, watched_at_s=now_s, items=seen.items, window_rows=rule.rows,
        full_in_s=round(lacking / pace, 1) if lacking and pace else None,
        fills=not lacking or not pace or rule.rows / pace <= kept_s,
    )


# --- what ends otherwise -------------------------------------------------------------------------


def retired(standing: Standing, now_s: float) -> Standing:
    """Nobody asks the version any more: what is open closes."""
    return _all_closed(standing, f"{standing.ref} is not asked any more", now_s)


def without_profile(standing: Standing, now_s: float) -> Standing:
    """There is nothing to compare with; if there was before, what is open closes."""
    if standing.state == "no_profile":
        return msgspec.structs.replace(standing, watched_at_s=now_s)
    over = _all_closed(standing, f"{standing.ref} has no reference any more", now_s)
    return msgspec.structs.replace(
        unwatched(standing.model, standing.version, "no_profile", now_s), ended=over.ended,
        unsent=over.unsent,
    )


def mended(standing: Standing, why: str, now_s: float) -> Standing:
    """A person says that the data are sound again: what is broken closes, and items of before are
    looked at no more."""
    over = _closed(standing, "data_quality", why, now_s)
    return msgspec.structs.replace(
        over, state="drift" if over.episodes else "not_enough_data", since_s=now_s,
        looked_at_s=None, begin_s=now_s, rows=0, items=0, full_in_s=None, mark=Mark(),
        features=tuple(_emptied(feature, now_s) for feature in over.features),
    )


def _emptied(one: FeatureStanding, now_s: float) -> FeatureStanding:
    """With no item in the window; what drifts does so until items say otherwise."""
    one = msgspec.structs.replace(one, rows=0, distance=None, note="")
    if one.state in ("drift", "not_enough_data"):
        return one
    return msgspec.structs.replace(one, state="not_enough_data", since_s=now_s)


def _all_closed(standing: Standing, why: str, now_s: float) -> Standing:
    for kind in standing.episodes:
        standing = _closed(standing, kind, why, now_s)
    return standing


def _closed(standing: Standing, kind: Kind, why: str, now_s: float) -> Standing:
    """The episode that is open ends: it is to be told, and shown among those that have ended."""
    episode = standing.episodes[kind]
    ended = EndedEpisode(
        kind=kind, opened_at_s=episode.opened_at_s, closed_at_s=now_s, features=episode.features
    )
    event = _event(standing, kind, "closed", episode.features, why, now_s)
    return msgspec.structs.replace(
        standing, ended=(ended, *standing.ended)[:ENDED_KEPT],
        episodes={name: one for name, one in standing.episodes.items() if name != kind},
        memory={
            name: one for name, one in standing.memory.items() if not name.startswith(f"{kind}:")
        },
        unsent=(*standing.unsent, event.to_dict()),
    )


def _of_profile(standing: Standing, standard: Standard, now_s: float) -> Standing:
    """What was remembered of another profile (somebody has made the registry anew) is of no use;
    what is open closes."""
    if standing.digest == standard.digest:
        return standing
    over = _all_closed(standing, f"{standing.ref} is another version now", now_s)
    return Standing(
        model=standing.model, version=standing.version, state="not_enough_data",
        since_s=standing.watched_at_s, watched_at_s=standing.watched_at_s,
        digest=standard.digest, ended=over.ended, unsent=over.unsent,
    )


# --- one look ------------------------------------------------------------------------------------


class _Looking:
    def __init__(
        self, standing: Standing, standard: Standard, window: Window, rule: WindowRule,
        now_s: float,
    ) -> None:
        self._standing = standing
        self._standard = standard
        self._window = window
        self._rule = rule
        self._now_s = now_s
        self._memory: dict[str, Watched] = {}
        self._notes: dict[str, str] = {}
        """What is broken, by feature."""
        self._before = {old.name: old for old in standing.features}
        self._is_judged = True
        """There are enough new sound items for a look at how they are distributed."""

    def step(self, seen: Seen) -> Standing:
        self._is_judged = seen.new_sound >= _least_new(self._rule)
        for feature in self._standard.watched:
            self._look_for_breach(feature)
        self._look_for_refused(seen)
        looks = {one.feature: one for one in self._looks()}
        for name, one in looks.items():
            self._look_for_drift(name, one)
        features = tuple(
            self._shown(feature, looks.get(feature.name)) for feature in self._standard.watched
        )
        features += self._shown_refused(seen)
        state = _worst(one.state for one in features if one.name != REFUSED or one.note)
        old = self._standing
        standing = msgspec.structs.replace(
            old, state=state, since_s=old.since_s if state == old.state else self._now_s,
            looked_at_s=self._now_s, rows=seen.rows,
            counted_share=round(seen.items / max(seen.came, seen.items, 1), 4),
            window_start_s=self._window.start_s, window_end_s=self._window.end_s,
            features=features, mark=self._mark(seen), memory=self._memory,
        )
        return self._episodes(standing)

    def _mark(self, seen: Seen) -> Mark:
        if self._is_judged:
            return seen.mark
        old = self._standing.mark
        return msgspec.structs.replace(
            seen.mark, judged_s=old.judged_s, judged_rows=old.judged_rows
        )

    # --- features -------------------------------------------------------------------------------

    def _looks(self) -> list[FeatureLook]:
        watched = self._standard.profile.model_copy(update={"features": self._standard.watched})
        return look_at(watched, self._window, self._rule)

    def _look_for_breach(self, feature: FeatureProfile) -> None:
        counts = self._window.counts.get(feature.name)
        value: float | None = None
        if counts is not None and counts.sum() >= min(LEAST_QUALITY_ROWS, self._rule.rows):
            rise, text = breaches.rise_of_counts(feature, np.asarray(counts), self._chance())
            # Chance gives such a rise, too: it opens nothing, and closes nothing either.
            value = rise if text else min(rise, breaches.LEAST_RISE)
            self._notes[feature.name] = text
        self._step(
            "data_quality", feature.name, value if self._is_judged else None, breaches.LEAST_RISE
        )

    def _look_for_refused(self, seen: Seen) -> None:
        enough = seen.items >= min(LEAST_QUALITY_ROWS, self._rule.rows)
        self._step(
            "data_quality", REFUSED, seen.refused / seen.items if enough else None, MOST_REFUSED
        )

    def _chance(self) -> float:
        """Of one look at one feature, so that all together keep to the stated rate."""
        rows = self._rule.rows / LOOKS_PER_WINDOW
        every = len(self._standard.watched)
        return min(breaches.CHANCE, rows / self._rule.rows_between_alarms / max(every, 1))

    def _look_for_drift(self, name: str, one: FeatureLook) -> None:
        is_open = self._old("data_drift", name).episode is not None
        # Broken data are far from the reference, and so are the answers to them: that is no drift.
        judged = not self._is_broken(name) if is_open else not self._any_broken
        judged = judged and self._is_judged
        self._step("data_drift", name, one.statistic if judged else None, one.threshold)

    def _is_broken(self, name: str) -> bool:
        held = self._memory.get(f"data_quality:{name}")
        return held is not None and held.episode is not None

    @property
    def _any_broken(self) -> bool:
        """Of what is in the window: refused items are not."""
        return any(
            one.episode is not None for key, one in self._memory.items()
            if key.startswith("data_quality:") and one.feature != REFUSED
        )

    def _old(self, kind: Kind, name: str) -> Watched:
        found = self._standing.memory.get(f"{kind}:{name}")
        return found if found is not None else Watched(feature=name)

    def _step(self, kind: Kind, name: str, value: float | None, threshold: float) -> None:
        old = self._old(kind, name)
        # A clock that was ahead, and is right again, must not keep us from looking.
        old = replace(old, seen_at_s=min(old.seen_at_s, self._now_s - 1.0))
        taken = Look(at_s=self._now_s, statistic=value, threshold=threshold)
        new = step(old, taken, Hysteresis()).watched
        if new.episode is not None:
            self._memory[f"{kind}:{name}"] = new

    def _shown(self, feature: FeatureProfile, one: FeatureLook | None) -> FeatureStanding:
        rows = self._window.rows(feature.name)
        broken = self._is_broken(feature.name)
        drifts = self._memory.get(f"data_drift:{feature.name}")
        state: State = "stable"
        if broken:
            state = "broken"
        elif drifts is not None and drifts.episode is not None:
            state = "drift"
        elif one is None or one.statistic is None:
            state = "not_enough_data"
        before = self._before.get(feature.name)
        return FeatureStanding(
            name=feature.name, role=feature.role, state=state, rows=rows,
            since_s=self._now_s if before is None or before.state != state else before.since_s,
            distance=None if one is None or one.statistic is None else round(one.statistic, 4),
            threshold=None if one is None else round(one.threshold, 4),
            note=self._notes.get(feature.name, "") if broken else "",
        )

    def _shown_refused(self, seen: Seen) -> tuple[FeatureStanding, ...]:
        """Nothing where there are none."""
        broken = self._is_broken(REFUSED)
        if not seen.refused and not broken:
            return ()
        before = self._before.get(REFUSED)
        state: State = "broken" if broken else "stable"
        part = seen.refused / max(seen.items, 1)
        too_few = seen.rows < self._rule.least_share * self._rule.rows
        rest = ", and the others are too few to say whether they drift" if too_few else ""
        return (FeatureStanding(
            name=REFUSED, role="input", state=state, rows=seen.items,
            since_s=self._now_s if before is None or before.state != state else before.since_s,
            distance=round(part, 4), threshold=MOST_REFUSED,
            note=f"{part:.0%} of the items do not fit the model's input{rest}" if broken else "",
        ),)

    # --- episodes of the version ----------------------------------------------------------------

    def _episodes(self, standing: Standing) -> Standing:
        """What closes is told first: data that are mended hold up nothing that opens now."""
        found = {kind: self._open_features(kind) for kind in KINDS}
        for kind, episode in standing.episodes.items():
            if not found[kind]:
                said = f"{_named(episode.features)}: as in the reference again"
                standing = _closed(standing, kind, said, self._now_s)
        for kind in KINDS:
            if found[kind]:
                standing = self._joined(standing, kind, found[kind])
        return standing

    def _joined(self, standing: Standing, kind: Kind, features: tuple[str, ...]) -> Standing:
        """An episode opens with these features, or goes on with them."""
        unsent, episode = standing.unsent, standing.episodes.get(kind)
        if episode is None:
            episode = OpenEpisode(opened_at_s=self._now_s, features=features)
            said = self._sentence(standing, kind, features)
            event = _event(standing, kind, "opened", features, said, self._now_s)
            unsent = (*unsent, event.to_dict())
        joined = tuple(dict.fromkeys([*episode.features, *features]))
        episode = msgspec.structs.replace(episode, features=joined)
        return msgspec.structs.replace(
            standing, episodes={**standing.episodes, kind: episode}, unsent=unsent
        )

    def _open_features(self, kind: Kind) -> tuple[str, ...]:
        """The worst first."""
        some = [
            (one.episode.opened_with / max(one.episode.threshold, 1e-9), one.feature)
            for key, one in self._memory.items()
            if key.startswith(f"{kind}:") and one.episode is not None
        ]
        return tuple(name for _, name in sorted(some, key=lambda pair: (-pair[0], pair[1])))

    def _sentence(self, standing: Standing, kind: Kind, names: tuple[str, ...]) -> str:
        by_name = {one.name: one for one in standing.features}
        parts = []
        for name in names[:NAMED]:
            one = by_name[name]
            if kind == "data_quality":
                parts.append(f"{name}: {one.note}")
            else:
                parts.append(
                    f"{name}: distance {one.distance or 0:.2f}, where {one.threshold or 0:.2f} is "
                    "much"
                )
        more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"of the newest {standing.items:,} items, {'; '.join(parts)}{more}"


_ORDER: tuple[State, ...] = ("broken", "drift", "stable", "not_enough_data")


def _worst(states: Iterable[State]) -> State:
    found = set(states)
    return next((state for state in _ORDER if state in found), "not_enough_data")


def _named(features: Sequence[str]) -> str:
    more = f" and {len(features) - NAMED} more" if len(features) > NAMED else ""
    return ", ".join(features[:NAMED]) + more


def _event(  # noqa: PLR0913, PLR0917 - what an event is made of
    standing: Standing, kind: Kind, state: Literal["opened", "closed"],
    features: tuple[str, ...], detail: str, now_s: float,
) -> DriftEvent:
    return DriftEvent(
        kind=kind, state=state, model=standing.model, version=standing.version, source="stream",
        features=features, detail=detail, at_s=now_s,
    )
