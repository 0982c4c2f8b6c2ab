"""Where steep keeps what it can make again. STEEP_CACHE moves it."""

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    if "STEEP_CACHE" in os.environ:
        return Path(os.environ["STEEP_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "steep"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steep"
