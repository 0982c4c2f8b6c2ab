"""Checks that may hang, crash or eat memory, in processes that can be killed."""

from steep.sandbox.pool import WORKERS, CheckError, Sandbox, shared

__all__ = ["WORKERS", "CheckError", "Sandbox", "shared"]
