"""The pages that are built from web/ into static/: files that any browser may load, and what it is told with them."""

from importlib.resources import files
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(str(files("steep.server"))) / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Nothing is loaded from elsewhere, and no script or style but that of the files runs."""


class Built(StaticFiles):
    """One of the pages, with its files."""

    def __init__(self, name: str) -> None:
        super().__init__(directory=STATIC / name, html=True)
        self.paths = frozenset({"/"} | {f"/{file.name}" for file in (STATIC / name).iterdir()})
        """Where they are asked for."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
