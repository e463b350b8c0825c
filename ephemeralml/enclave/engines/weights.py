"""Tensors of a checkpoint as float32 arrays, in place where the file allows it."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ephemeralml.enclave.engines.bert_config import UNSUPPORTED
from ephemeralml.errors import MalformedError
from ephemeralml.model.formats import safetensors
from ephemeralml.model.formats.safetensors import TensorEntry
from ephemeralml.model.formats.source import BufferSource
from ephemeralml.model.memory_file import LoadedFile
from ephemeralml.model.roles import Role

_FLOAT_DTYPES = frozenset({"F32", "F16", "BF16"})
_LAYER = re.compile(r"(?:^|\.)layer\.([0-9]{1,9})\.")


@dataclass(frozen=True, slots=True)
class _Located:
    file: LoadedFile
    entry: TensorEntry


class Checkpoint:
    """All tensors of a model's safetensors files, by name."""

    def __init__(self, files: Sequence[LoadedFile], *, prefixes: Collection[str] = ("", "bert.")) -> None:
        """Read and check the headers of *files*.

        Args:
            files: The weights.
            prefixes: What a tensor's name may start with; dropped from it.

        Raises:
            MalformedError: A header lies, a dtype is not allowed, or two files
                name the same tensor.
        """
        self._tensors: dict[str, _Located] = {}
        longest_first = sorted(prefixes, key=len, reverse=True)
        for file in files:
            for entry in safetensors.parse(BufferSource(file.view())).tensors:
                name = entry.name
                for prefix in longest_first:
                    if name.startswith(prefix):
                        name = name[len(prefix) :]
                        break
                if name in self._tensors:
                    raise MalformedError(f"two tensors are called {name!a}")
                self._tensors[name] = _Located(file, entry)

    def fetch(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return tensor *name* as float32.

        F32 comes as a view of the file; F16 and BF16 are converted, exactly.

        Raises:
            MalformedError: It is missing, has another shape, or holds no floats.
        """
        located = self._tensors.get(name)
        if located is None:
            raise MalformedError(f"the model lacks tensor {name!a}")
        entry = located.entry
        if entry.shape != shape:
            raise MalformedError(f"tensor {name!a} has shape {list(entry.shape)}, config.json asks for {list(shape)}")
        if entry.dtype not in _FLOAT_DTYPES:
            raise MalformedError(f"tensor {name!a} has dtype {entry.dtype}, the engine wants floats")
        raw = located.file.view()[entry.start : entry.end]
        return _as_float32(raw, entry.dtype).reshape(shape)

    def layers(self) -> int:
        """Return how many layers the tensors' names speak of."""
        found = [int(match[1]) for name in self._tensors if (match := _LAYER.search(name))]
        return max(found, default=-1) + 1


def _as_float32(raw: memoryview, dtype: str) -> NDArray[np.float32]:
    if dtype == "F32":
        values = np.frombuffer(raw, dtype="<f4")
        # A header whose length is no multiple of four leaves the data unaligned; only then is it copied.
        return values if values.flags.aligned else values.copy()
    if dtype == "F16":
        return np.frombuffer(raw, dtype="<f2").astype(np.float32)
    return (np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16).view(np.float32)


def weight_files(files: Mapping[str, LoadedFile]) -> list[LoadedFile]:
    """Return the weights among *files*, in order of their paths.

    Raises:
        MalformedError: There is an adapter, which would be silently left out (code MODEL_UNSUPPORTED).
    """
    for path, file in files.items():
        if file.role is Role.ADAPTER:
            raise MalformedError(f"{path}: adapters are not supported", code=UNSUPPORTED)
    return [files[path] for path in sorted(files) if files[path].role is Role.WEIGHTS]
