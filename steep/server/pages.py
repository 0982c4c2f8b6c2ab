"""The page of runs and the JSON behind it, as an app that stands alone or is mounted within another.

GET ./                 the page: built from web/ into static/runs/; it asks for nothing from elsewhere
    ./api/runs         the list
    ./api/run          one run
    ./api/config       its resolved config
    ./api/courses      metrics of a stage, thinned for a plot
    ./api/rollouts     some of a stage's rollouts
    ./api/compare      several runs side by side
    ./api/evaluations  what `steep eval` has kept
    ./report           the page that `steep report` wrote on a run or an evaluation

Everything is read from the run directories under one root. Nothing is written, and there is nothing but GET.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from steep.errors import SteepError
from steep.runs import Comparison
from steep.server.built import HEADERS, Built
from steep.server.courses import Thinned
from steep.server.library import EvaluationLine, Library, RunLine, RunView, Setting
from steep.server.rollouts import Page, Wanted

HOSTS = ["127.0.0.1", "localhost"]
"""Names under which the page is asked for: a site elsewhere that has its own name resolved to this machine is not."""
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report carries its own script and styles. It belongs to no origin, so whatever stands in it can ask for nothing."""
MOST_POINTS = 2000
MOST_ROLLOUTS = 100


def pages(root: Path) -> FastAPI:
    """The app for the runs in a directory."""
    library = Library(root)
    app = FastAPI(title="steep runs", openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(SteepError)
    def explain(request: Request, error: SteepError) -> JSONResponse:
        return JSONResponse({"error": error.message, "fix": error.fix}, 404)

    @app.get("/api/runs")
    def runs() -> list[RunLine]:
        return library.runs()

    @app.get("/api/run")
    def run(run: str) -> RunView:
        return library.run(run)

    @app.get("/api/config")
    def config(run: str) -> list[Setting]:
        return library.config(run)

    @app.get("/api/courses")
    def courses(
        run: str,
        stage: str,
        metric: Annotated[list[str], Query()],
        points: Annotated[int, Query(ge=1, le=MOST_POINTS)] = 400,
        first: int | None = None,
        last: int | None = None,
    ) -> dict[str, Thinned]:
        return library.courses(run, stage, metric, points, first, last)

    @app.get("/api/rollouts")
    def rollouts(
        run: str,
        stage: str,
        task: str | None = None,
        verdict: str | None = None,
        shortest: int | None = None,
        longest: int | None = None,
        first: int | None = None,
        last: int | None = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST_ROLLOUTS)] = 20,
    ) -> Page:
        wanted = Wanted(task=task, verdict=verdict, shortest=shortest, longest=longest, first=first, last=last)
        return library.rollouts(run, stage, wanted, offset, count)

    @app.get("/api/compare")
    def compare(run: Annotated[list[str], Query()]) -> Comparison:
        return library.compare(run)

    @app.get("/api/evaluations")
    def evaluations() -> list[EvaluationLine]:
        return library.evaluations()

    @app.get("/report")
    def report(of: str) -> FileResponse:
        return FileResponse(library.report(of), headers={"Content-Security-Policy": REPORT_POLICY})

    app.mount("/", Built("runs"))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    return app
