"""How the single items of a model stand, over HTTP."""

from __future__ import annotations

import redis

from celeriac.drift.standing import FeatureStanding, Standing, Watcher
from celeriac.keys import DRIFT_STANDINGS_KEY, drift_standing_key
from celeriac.settings import Settings
from tests.integration.gateway.conftest import Http


def test_the_standing_of_a_model(http_client: Http, gateway_settings: Settings) -> None:
    size = FeatureStanding(
        name="size", role="input", state="drift", since_s=1.0, rows=1_000, distance=0.4,
        threshold=0.1,
    )
    one = Standing(
        model="reviews", version=1, state="drift", since_s=1.0, watched_at_s=2.0, features=(size,),
        unsent=({"secret": "of the watch"},),
    )
    client: redis.Redis = redis.Redis.from_url(gateway_settings.broker_url)
    watcher = Watcher(client, "test")
    assert watcher.begin()
    watcher.save(one)
    try:
        (found,) = http_client.get("/v1/models/reviews/drift").json["versions"]
    finally:
        watcher.end()
        client.delete(drift_standing_key("reviews", 1), DRIFT_STANDINGS_KEY)
        client.close()
    assert (found["version"], found["state"]) == (1, "drift")
    assert found["features"][0]["distance"] == 0.4
    assert "unsent" not in found
    assert http_client.get("/v1/models/reviews/drift").json == {"versions": []}
    assert http_client.get("/v1/models/nobody/drift").status == 404
