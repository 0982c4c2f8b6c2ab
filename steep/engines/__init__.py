"""What samples rollouts from weights, and where the weights of a model are found."""

from steep.engines.chunked import ChunkedEngine, Chunking
from steep.engines.directory import LoadedModel, find_device, load_model, save_model, save_model_gguf, with_thought
from steep.engines.driven import DrivenEngine
from steep.engines.locate import Found, find_model
from steep.engines.native import DTYPES, NativeConfig, NativeEngine

__all__ = [
    "DTYPES",
    "ChunkedEngine",
    "Chunking",
    "DrivenEngine",
    "Found",
    "LoadedModel",
    "NativeConfig",
    "NativeEngine",
    "find_device",
    "find_model",
    "load_model",
    "save_model",
    "save_model_gguf",
    "with_thought",
]
