"""Training state as JSON and tensors, and back to equal values of equal types. No pickle.

What JSON has is itself. Everything else is an object with one key, the name of its type:

    (1, 2)            {"tuple": [1, 2]}
    {"lr": 0.1}       {"dict": {"lr": 0.1}}
    {0: "a"}          {"items": [[0, "a"]]}
    nan               {"float": "7ff8000000000000"}
    torch.ones(3)     {"tensor": "0 state.x"}      a name in the tensors beside it

A tensor comes back on the CPU, contiguous and without gradient. Values that share memory come back apart.
"""

import base64
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAFE_INT = 2**53
"""JSON readers agree on integers below this; larger ones are written in hexadecimal."""


def encode(value: Any, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """The JSON structure of `value` and the tensors that it names.

    A value of another type (also a subclass, such as OrderedDict) is a TypeError that says where it stands, because
    it could not come back as what it was.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(value, name, tensors), tensors


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < SAFE_INT else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind is list:
        return [_encode(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [_encode(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: _encode(item, f"{path}.{key}", tensors) for key, item in value.items()}}
    if kind is dict:
        return {
            "items": [
                [_encode(key, f"{path} key", tensors), _encode(item, f"{path}.{key}", tensors)]
                for key, item in value.items()
            ]
        }
    if kind in (Tensor, torch.nn.Parameter):
        return {"tensor": _add(tensors, path, value.detach())}
    if kind is np.ndarray and value.dtype.kind in "biufcSUmM":
        return {"ndarray": _encode_array(value, path, tensors)}
    if isinstance(value, np.generic) and value.dtype.kind in "biufcSUmM":
        return {"scalar": _encode_array(np.asarray(value), path, tensors)}
    raise TypeError(f"{path} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold")


def _encode_array(array: np.ndarray[Any, Any], path: str, tensors: dict[str, Tensor]) -> list[Any]:
    """Name, dtype and shape of an array, whose bytes are a tensor: numpy has types that torch has not."""
    data = torch.from_numpy(
        np.frombuffer(bytearray(array.tobytes()), np.uint8) if array.size else np.empty(0, np.uint8)
    )
    return [_add(tensors, path, data), array.dtype.str, list(array.shape)]


def _add(tensors: dict[str, Tensor], path: str, tensor: Tensor) -> str:
    name = f"{len(tensors)} {path}"
    tensors[name] = tensor
    return name


def decode(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `encode` was given."""
    if isinstance(structure, list):
        return [decode(item, tensors) for item in structure]
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    match kind:
        case "int":
            return int(content, 16)
        case "float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        case "bytes":
            return base64.b64decode(content)
        case "tuple":
            return tuple(decode(item, tensors) for item in content)
        case "dict":
            return {key: decode(item, tensors) for key, item in content.items()}
        case "items":
            return {decode(key, tensors): decode(item, tensors) for key, item in content}
        case "tensor":
            return tensors[content]
        case "ndarray":
            return _decode_array(content, tensors)
        case "scalar":
            return _decode_array(content, tensors)[()]
        case _:
            raise ValueError(f"unknown type {kind!r}")


def _decode_array(content: list[Any], tensors: Mapping[str, Tensor]) -> np.ndarray[Any, Any]:
    name, dtype, shape = content
    return np.ndarray(shape, np.dtype(dtype), tensors[name].numpy().tobytes()).copy()
