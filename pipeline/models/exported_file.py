"""A network in a file: ONNX, torch.export, TorchScript, or a pickled module. It runs on the CPU.

ONNX is data: no code in it runs. The others are programs. Loading a torch.export file unpickles parts of it and evaluates the
text of its symbolic sizes (torch 2.15, `_export/serde/serialize.py`); TorchScript runs in an interpreter that can read and
write files; a pickle can run any code. So these are loaded only if the user allows it.
"""

import io
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pipeline.config.models import ExportedForm
from pipeline.errors import UserError
from pipeline.models import onnx_file
from pipeline.models.outside import package, words

WHAT_IT_CAN_DO: dict[ExportedForm, str] = {
    "torch_export": "a torch.export program, and torch runs code that was put into one when it loads it",
    "torchscript": "a TorchScript program, which can read and write files of the machine that runs it",
    "pickle": "a pickled module, and loading it runs any code that was put into it",
}
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # domains of the operators that ONNX Runtime has


@dataclass(frozen=True)
class Port:
    """The declared input of a network; None: the file does not say."""

    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None


class ExportedFile(ABC):
    """A network with one input.

    Args:
        data: bytes of the file.
        where: name of the file in messages.
    Raises:
        UserError: the file cannot be read, or has more than one input.
    """

    port: Port

    @abstractmethod
    def run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every output by its name; one without a name is called output."""


class OnnxFile(ExportedFile):
    """An ONNX file, run by ONNX Runtime with as many threads as torch has at the first run."""

    def __init__(self, data: bytes, where: str) -> None:
        package("onnxruntime", "onnxruntime")
        proto = onnx_file.parse(data, where)
        if stored := onnx_file.stored_elsewhere(proto):
            raise UserError(
                f"{where}: {len(stored)} of its tensors lie in other files, {stored[0].name} the first; maskmill import-model "
                "takes them in: import the file again"
            )
        self._where, self.data = where, data
        inputs = onnx_file.inputs(proto)
        self._input = _only_one([one.name for one in inputs], where)
        self.port = Port(onnx_file.shape_of(inputs[0]), onnx_file.dtype_of(inputs[0]))
        self._strange = [name for name in onnx_file.operators(proto) if name.rpartition(".")[0] not in _KNOWN_DOMAINS]

    @cached_property
    def _session(self) -> Any:
        try:
            return onnx_file.session(self.data, torch.get_num_threads())
        except Exception as error:  # ONNX Runtime has its own error classes
            if self._strange:
                raise UserError(
                    f"{self._where}: ONNX Runtime does not know the operator {', '.join(self._strange)}; export the network "
                    "with ONNX's own operators alone"
                ) from None
            raise UserError(f"{self._where}: ONNX Runtime does not take the file ({words(error)})") from None

    def run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        session = self._session
        try:
            found = session.run(None, {self._input: x.numpy()})
        except Exception as error:
            raise onnx_file.as_memory_error(error) from None
        return {one.name: torch.from_numpy(value) for one, value in zip(session.get_outputs(), found, strict=True)}


class TorchFile(ExportedFile):
    """A module that torch loads and runs."""

    def __init__(self, data: bytes, where: str) -> None:
        self.port = Port()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a warning that TorchScript is deprecated
                self._module = self.load(data)
        except Exception as error:
            raise UserError(f"{where}: torch {torch.__version__} cannot load it ({words(error)})") from None
        if not callable(self._module):
            raise UserError(
                f"{where}: it contains a {type(self._module).__name__} instead of a network; for a file with only weights use "
                "maskmill import-weights"
            )

    @abstractmethod
    def load(self, data: bytes) -> Callable[[torch.Tensor], Any]:
        """Load the module; this may run code in the file."""

    def run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        leaves, _ = pytree.tree_flatten_with_path(self._module(x))
        return {_name(path): value for path, value in leaves if isinstance(value, torch.Tensor)}


class Program(TorchFile):
    """A torch.export file."""

    def __init__(self, data: bytes, where: str) -> None:
        super().__init__(data, where)
        _only_one(self._inputs, where)
        self.port = self._port

    def load(self, data: bytes) -> Callable[[torch.Tensor], Any]:
        program = torch.export.load(io.BytesIO(data))
        self._inputs = [str(name) for name in program.graph_signature.user_inputs]
        self._port = Port()
        for node in program.graph.nodes:
            if [node.name] == self._inputs and isinstance(node.meta["val"], torch.Tensor):
                sizes = tuple(size if isinstance(size, int) else None for size in node.meta["val"].shape)
                self._port = Port(sizes, str(node.meta["val"].dtype).removeprefix("torch."))
        return program.module()


class TorchScript(TorchFile):
    """A TorchScript file."""

    def load(self, data: bytes) -> Callable[[torch.Tensor], Any]:
        module: nn.Module = torch.jit.load(io.BytesIO(data), map_location="cpu")
        return module.eval()


class Pickle(TorchFile):
    """A module written by `torch.save(module)`, whose class must be importable here."""

    def load(self, data: bytes) -> Callable[[torch.Tensor], Any]:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
        return found.eval() if isinstance(found, nn.Module) else found


KINDS: dict[ExportedForm, Callable[[bytes, str], ExportedFile]] = {
    "onnx": OnnxFile,
    "torch_export": Program,
    "torchscript": TorchScript,
    "pickle": Pickle,
}
ENDINGS: dict[ExportedForm, str] = {"onnx": "onnx", "torch_export": "pt2", "torchscript": "ts", "pickle": "pt"}


def form_of(data: bytes) -> ExportedForm:
    """Detect the format of a file from its content; a file that is not torch's can only be ONNX."""
    if data[:2] == b"\x80\x02":
        return "pickle"
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        return "onnx"
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        return "torch_export"
    return "torchscript" if any(name.partition("/")[2] == "constants.pkl" for name in names) else "pickle"


def _only_one(names: list[str], where: str) -> str:
    if len(names) != 1:
        raise UserError(
            f"{where}: the network has {len(names)} inputs ({', '.join(names) or 'none'}), but only the image is given to it; "
            "export it with the image as its only input"
        )
    return names[0]


def _name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return ".".join(parts) or "output"
