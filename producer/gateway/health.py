"""Is it alive, is it ready? Both are open, and say nothing else."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="The process answers")
async def live() -> dict[str, bool]:
    return {"live": True}


_READY = {"application/json": {"schema": {
    "type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}},
}}}


@router.get("/ready", summary="It can answer predictions, and takes more of them", responses={
    200: {"description": "It is ready", "content": _READY},
    503: {"description": "Redis does not answer, or the process drains", "content": _READY},
})  # fmt: skip
async def ready(request: Request) -> JSONResponse:
    is_ready = request.app.state.gateway.is_ready
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)
