"""The application: routes, the chat page, and how errors are told. It can be mounted in another."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import steep
from steep.server.budgets import most_thought
from steep.server.built import Built
from steep.server.chat import chat_routes
from steep.server.config import ServerConfig
from steep.server.described import ANY, Described, Health, ModelList, ModelTold, refusals, told
from steep.server.errors import ApiError, invalid
from steep.server.guard import Guard
from steep.server.jobs import Jobs
from steep.server.model import ServedModel
from steep.server.responses import response_routes
from steep.server.service import Service
from steep.server.store import Store


def create_app(models: Sequence[ServedModel], config: ServerConfig, store: Store) -> FastAPI:
    """`app.state.service` is what holds the models and the store; close it when the application has ended.

    Background responses are worked on during the application's lifespan.
    """
    service = Service(models, config, store)
    jobs = Jobs(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with jobs.at_work():
            yield

    app = Described(
        title="steep",
        version=steep.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=refusals(ANY),
    )
    app.state.service = service
    app.include_router(chat_routes(service))
    app.include_router(response_routes(service, jobs))

    @app.get("/v1/models", responses=told(ModelList))
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(model, config) for model in service.models.values()]}

    @app.get("/v1/models/{name:path}", responses=told(ModelTold) | refusals([404]))
    async def get_model(name: str) -> dict[str, Any]:
        return describe(service.model(name), config)

    @app.get("/health", responses=told(Health) | {503: {"model": Health, "description": "It is not served"}})
    async def health() -> JSONResponse:
        failed = [name for name, model in service.models.items() if model.driver.failed]
        status = "failed" if failed else "draining" if service.draining else "ok"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(service.models.values()), media_type="text/plain; version=0.0.4")

    page = Built("chat")

    @app.get("/", include_in_schema=False)
    @app.get("/{file}", include_in_schema=False)
    async def get_page(request: Request, file: str = "") -> Response:
        return await page.get_response(file, request.scope)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> Response:
        return invalid(error).response()

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405 and (operations := app.operations(request.scope["route"])):
            headers["allow"] = ", ".join(operations)  # of all routes with this path, not of the first alone
        return ApiError(error.status_code, str(error.detail)).response(headers)

    app.add_middleware(Guard, config=config, count=service.metrics.count_request)
    if config.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["retry-after"],
        )
    return app


def describe(model: ServedModel, config: ServerConfig) -> dict[str, Any]:
    template = model.template
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "steep",
        "context": model.context,
        "thinks": template.think_close_id is not None,
        "efforts": dict(template.config.efforts),
        "default_effort": model.default_effort,
        "thinking": "chunked" if model.chunked else "whole",
        "max_thought": most_thought(model, config.max_thought),
        "answer": template.config.answer,
        "thoughts": config.thoughts,
    }
