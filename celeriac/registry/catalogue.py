"""The catalogue: what the registry holds, published to Redis for clients and workers.

Truth is the registry on disk. The maintenance role publishes; everybody else reads, and follows
the generation number, which goes up with every change. It is the time in milliseconds, or one more
than the last: one that Redis has lost does not come again for another catalogue.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from celeriac.keys import CATALOGUE_KEY, GENERATION_KEY
from celeriac.messages import ModelRef
from celeriac.registry.manifest import InputSchema, ModelVersion, OutputSchema, Profile, Serving
from celeriac.registry.reference import pick, unknown_model


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer publisher may say more


class VersionInfo(_Record):
    """What a caller must know of a version."""

    version: int
    format: str
    device: Literal["cpu", "gpu"]
    """Where single items go now."""
    chunks_on: Literal["cpu", "gpu"] | None = None
    """Where chunks of a new job go, if elsewhere."""
    asks_for: Literal["cpu", "gpu"] | None = None
    """What the version itself asks for, while it is somewhere else."""
    input: InputSchema
    output: OutputSchema
    serving: Serving = Serving()
    profile: tuple[Profile, ...] = ()
    created_at: str
    metrics: dict[str, float] = {}
    description: str = ""

    @property
    def batch_device(self) -> Literal["cpu", "gpu"]:
        """Where chunks of a new job go."""
        return self.chunks_on or self.device


class ModelInfo(_Record):
    """One model: its aliases and its versions."""

    name: str
    aliases: dict[str, int] = {}
    versions: dict[int, VersionInfo] = {}


class Catalogue(_Record):
    """All models."""

    generation: int = 0
    fallen_back: tuple[Literal["realtime", "batch"], ...] = ()
    """The kinds of work that the CPU does for the GPU now, because no worker of it is there."""
    models: dict[str, ModelInfo] = {}

    def resolve(self, ref: ModelRef) -> VersionInfo:
        """The version that ``ref`` means. Raises ModelNotFound or VersionNotFound."""
        model = self.models.get(ref.name)
        if model is None:
            raise unknown_model(ref.name, self.models)
        return model.versions[pick(ref, model.versions, model.aliases)]


def version_info(version: ModelVersion) -> VersionInfo:
    """The published part of a version."""
    known = VersionInfo.model_fields.keys() & type(version).model_fields.keys()
    return VersionInfo(**{name: getattr(version, name) for name in known})


_PUBLISH = """
local generation = redis.call('GET', KEYS[2]) or '0'
if redis.call('GET', KEYS[1]) == ARGV[1] then return tonumber(generation) end
if ARGV[2] ~= '' and generation ~= ARGV[2] then return -1 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local following = string.format('%.0f', math.max(tonumber(generation) + 1, now_ms))
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], following)
return tonumber(following)
"""


def publish(
    client: Any, models: dict[str, ModelInfo],
    fallen_back: tuple[Literal["realtime", "batch"], ...] = (), *, seen: int | None = None,
) -> int:
    """Publish through a redis-py client; returns the generation, which rises only on a change.

    ``seen``: the generation before the registry was read. If another has been published since, and
    it differs, nothing is published and the answer is -1: ``models`` may be older than that one.
    """
    known = dict(sorted(models.items()))
    body = Catalogue(models=known, fallen_back=fallen_back).model_dump_json()
    expected = "" if seen is None else str(seen)
    return int(client.eval(_PUBLISH, 2, CATALOGUE_KEY, GENERATION_KEY, body, expected))


def fetch(client: Any) -> Catalogue:
    """The published catalogue; empty if nobody has published yet."""
    body, generation = client.mget(CATALOGUE_KEY, GENERATION_KEY)
    if body is None:
        return Catalogue()
    return Catalogue.model_validate_json(body).model_copy(
        update={"generation": int(generation or 0)}
    )


def fetch_generation(client: Any) -> int:
    """The generation number alone: one GET."""
    return int(client.get(GENERATION_KEY) or 0)
