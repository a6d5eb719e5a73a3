"""The ASGI application of the gateway."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from celeriac import __version__, errors
from celeriac.settings import Settings
from producer.gateway import (
    admin,
    failures,
    feedback,
    health,
    jobs,
    metrics,
    models,
    moderation,
    openapi,
    pages,
    predict,
    predictions,
    query,
    recommendation,
    reviews,
    sensors,
)
from producer.gateway.access import GONE, AccessLog
from producer.gateway.auth import Keys
from producer.gateway.client import GatewayClient
from producer.gateway.context import Gateway, RequestContext
from producer.gateway.disconnects import Disconnected
from producer.gateway.guard import Guard, failed
from producer.gateway.hot import HotRouter
from producer.gateway.oip import routes as oip
from producer.gateway.oip.extensions import not_offered
from producer.gateway.rates import Rates

HOT_ROUTES = [*predict.ROUTES, *oip.ROUTES]
COLD_ROUTERS = [
    predictions.router, jobs.router, models.router, health.router, oip.router, admin.router,
    recommendation.router, feedback.router, reviews.router, moderation.router,
    sensors.router,
]  # fmt: skip
ADMIN_ROUTERS = [health.router, models.admin_router, admin.router]


class Applications(NamedTuple):
    """The two ports of one process."""

    public: Guard
    """Its lifespan is the gateway's."""
    admin: Guard


def build(
    settings: Settings, client: GatewayClient | None = None, url: str = ""
) -> Applications:
    """The applications for one process. ``client`` is closed by whoever made it.

    Raises ConfigError for keys that cannot be used.
    """
    gateway = Gateway(settings, client or GatewayClient(settings=settings), url)
    access = AccessLog(settings.log, on=settings.gateway.access_log)
    door: dict[str, Any] = {
        "keys": Keys(settings.gateway),
        "rates": Rates(settings.gateway, gateway.redis),
        "access": access,
    }
    metrics.IN_FLIGHT.set_function(lambda: len(gateway.watches))
    public, operation = (
        build_cold(gateway, routers) for routers in (COLD_ROUTERS, ADMIN_ROUTERS)
    )
    public.state.access = operation.state.access = access
    return Applications(
        Guard(gateway, HotRouter(HOT_ROUTES), public, **door),
        Guard(gateway, HotRouter([]), operation, scope="admin", **door),
    )


def build_cold(gateway: Gateway, routers: list[APIRouter]) -> FastAPI:
    """The application of one port's routes that are not hot."""
    app = FastAPI(
        title="Celeriac", version=__version__, strict_content_type=False, redirect_slashes=False,
        docs_url=None, redoc_url=None,
    )
    app.state.gateway = gateway
    for router in routers:
        app.include_router(router, dependencies=[Depends(query.only_known)])
    app.include_router(pages.router)
    app.add_exception_handler(errors.CeleriacError, _failed)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Disconnected, _gone)
    app.add_exception_handler(Exception, _defect)
    hot_paths = openapi.HOT_PATHS if routers is COLD_ROUTERS else {}
    document = openapi.document(app, hot_paths)
    app.openapi = lambda: document  # type: ignore[method-assign]
    return app


def _respond(request: Request, error: errors.CeleriacError) -> Response:
    context: RequestContext = request.scope["celeriac"]
    answer = failed(context, error)
    response = Response(answer.body, answer.status)
    response.raw_headers.extend(answer.headers)
    return response


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.CeleriacError)  # noqa: S101 - it is registered for these
    return _respond(request, error)


def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return _respond(request, failures.fault(f"{field}: {first['msg']}", field))


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    absent = not_offered(request.scope["path"])
    if error.status_code == 404 or absent:
        return _respond(request, failures.RouteNotFound(absent))
    if error.status_code == 405:
        return _respond(request, failures.MethodNotAllowed(allow=", ".join(_taken(request))))
    return _respond(request, errors.RequestError(str(error.detail)))


def _taken(request: Request) -> list[str]:
    """The methods that the path takes; Starlette names those of one of its routes only."""
    found = [
        method for method in ("GET", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
    return ["GET", "HEAD", *found[1:]] if "GET" in found else found


def _gone(_request: Request, _error: Exception) -> Response:
    """Nobody hears it; the log and the metrics tell it from a failure of ours."""
    return Response(status_code=GONE)


def _defect(request: Request, error: Exception) -> Response:
    del error  # Starlette raises it again, and the guard logs it
    return _respond(request, errors.CeleriacError())
