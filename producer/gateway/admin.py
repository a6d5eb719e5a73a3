"""What is for operators: on the admin port, and with the scope ``admin`` on the public one."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

router = APIRouter(tags=["operation"])


@router.get("/metrics", summary="Prometheus metrics of this gateway", response_class=Response,
            responses={200: {"description": "All of them", "content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    request.app.state.access.flush()  # what was answered just now counts
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
