"""Bodies are read as strictly as they may be stored and sent again: half a surrogate pair and NaN are no JSON."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from pydantic_core import from_json


class JsonRequest(Request):
    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class JsonRoute(APIRoute):
    """Where an endpoint takes the body first, then the request, and nothing else, a body that is right goes straight to
    it: FastAPI's way there is longer than what the endpoint does. All other bodies take it, for it says what is wrong.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, takes = super().get_route_handler(), self.dependant
        others = (takes.path_params, takes.query_params, takes.header_params, takes.cookie_params, takes.dependencies)
        body: Any = None
        if len(takes.body_params) == 1 and takes.request_param_name is not None and not any(others):
            body = takes.body_params[0].field_info.annotation
        validate = TypeAdapter(body).validate_python

        async def read(request: Request) -> Response:
            request = JsonRequest(request.scope, request.receive)
            if body is None or request.headers.get("content-type") != "application/json":
                return await handle(request)
            try:
                asked = validate(await request.json())
            except ValueError:
                return await handle(request)
            response: Response = await self.endpoint(asked, request)
            return response

        return read
