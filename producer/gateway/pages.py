"""The page that describes the interface, with all its files: it needs no other server."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from producer.gateway.failures import RouteNotFound

FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
"""Swagger UI, as the package fastapi-offline carries it."""
NO_ICON = "data:,"
NARROW = b"<style>@media (max-width: 640px) { .opblock-tag { flex-wrap: wrap } }</style></head>"
"""Beside a long heading Swagger UI leaves its description the width of a letter."""
# Nothing from elsewhere; the page begins with a script of its own.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' "
    "'unsafe-inline'; script-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
)

router = APIRouter(include_in_schema=False)


@router.get("/")
async def root(request: Request) -> Response:
    """People are led to the page; programs are told what they would be told of any other path."""
    if "text/html" not in request.headers.get("accept", ""):
        raise RouteNotFound
    return RedirectResponse("docs")  # relative: a proxy may have a prefix


@router.get("/docs")
async def docs() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="openapi.json", title="Celeriac over HTTP", swagger_favicon_url=NO_ICON,
        swagger_js_url="docs/swagger-ui-bundle.js", swagger_css_url="docs/swagger-ui.css",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )
    body = bytes(page.body).replace(b"</head>", NARROW)
    return HTMLResponse(body, headers={"content-security-policy": POLICY})


@router.get("/docs/{name}")
async def file(name: str) -> Response:
    if name not in FILES:
        raise RouteNotFound
    return Response(
        _content(name), media_type=FILES[name], headers={"cache-control": "max-age=86400"}
    )


@lru_cache
def _content(name: str) -> bytes:
    return (resources.files("fastapi_offline") / "static" / name).read_bytes()
