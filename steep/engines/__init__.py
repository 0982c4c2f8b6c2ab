"""What samples rollouts from weights, and where the weights of a model are found."""

from steep.engines.directory import LoadedModel, find_device, find_model, load_model, save_model
from steep.engines.native import NativeConfig, NativeEngine

__all__ = ["LoadedModel", "NativeConfig", "NativeEngine", "find_device", "find_model", "load_model", "save_model"]
