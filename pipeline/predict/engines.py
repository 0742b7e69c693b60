"""What computes a network's logits: torch, layer by layer, or a faster engine on the CPU that is given the same network.

Letters: N batch, C classes, D bands, H rows, W columns; x is normalised and of a legal size, as networks take it.
"""

import importlib.util
import os
import shutil
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.config import EngineName
from pipeline.errors import UserError
from pipeline.models import Exported, Network, onnx_file
from pipeline.models.export import TOLERANCE, Ending, to_onnx
from pipeline.models.exported_file import ExportedFile
from pipeline.models.onnx_file import as_memory_error

# What each engine is made of, beside torch: its own package first, whose version a run records.
PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "torch": (),
    "compile": (),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}


class Engine:
    """Torch itself; the other engines compute the same otherwise.

    Args:
        network: in eval mode.
    """

    name: EngineName = "torch"

    def __init__(self, network: Network) -> None:
        self.network = network

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """(N, D, H, W) -> (N, C, h, w) logits, for `Network.enlarges`."""
        return self.network.coarse(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, D, H, W) -> (N, C, H, W) logits."""
        logits: torch.Tensor = self.network(x)[-1]
        return logits


class _Whole(Engine):
    """An engine that computes the network up to its `Ending`; where that is coarse, torch enlarges."""

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        assert self.network.enlarges
        return self._end(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        end = self._end(x)
        if not self.network.enlarges:
            return end
        return F.interpolate(end, x.shape[-2:], mode="bilinear", align_corners=False)

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"{type(self).__name__} computes nothing")


class Compiled(_Whole):
    """torch.compile: compiled at the first image, once more at the second size, then for all sizes."""

    name = "compile"

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._compiled = torch.compile(Ending(network))

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            end: torch.Tensor = self._compiled(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"engine compile: torch.compile does not take {type(self.network).__name__} ({first_line:.200}); set "
                "engine: torch"
            ) from error
        return end


class OnnxRuntime(_Whole):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network)
        self._session = onnx_file.session(to_onnx(network), threads)

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            (end,) = self._session.run(None, {"x": x.contiguous().numpy()})
        except Exception as error:  # of its own, which are no RuntimeError
            raise as_memory_error(error) from None
        return torch.from_numpy(end)


class OpenVino(_Whole):
    """OpenVINO on the CPU, in float32 on processors that have bfloat16 too."""

    name = "openvino"

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network)
        self._request = compile_by_openvino(to_onnx(network), threads).create_infer_request()

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            found = self._request.infer({0: x.contiguous().numpy()}, share_inputs=True)
        except RuntimeError as error:
            raise as_memory_error(error) from None
        return torch.from_numpy(found[0])


def compile_by_openvino(onnx: bytes, threads: int) -> Any:
    """An ONNX file as OpenVINO's CompiledModel."""
    import openvino  # type: ignore[import-untyped]

    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # several actors would be pinned to the same cores
    }  # fmt: skip
    core = openvino.Core()
    return core.compile_model(core.read_model(onnx), "CPU", settings)


def build_engine(name: EngineName, network: Network, threads: int) -> Engine:
    """The engine of that name for a network on the CPU.

    Raises:
        UserError: what it is made of is not installed, or it does not take the network.
    """
    require_engine(name)
    if isinstance(network, Exported):
        return _of_file(name, network, threads)
    match name:
        case "torch":
            return Engine(network)
        case "compile":
            return Compiled(network)
        case "onnxruntime":
            return _checked(OnnxRuntime(network, threads))
        case "openvino":
            return _checked(OpenVino(network, threads))


class _OpenVinoFile(ExportedFile):
    """An ONNX file as somebody exported it, computed by OpenVINO."""

    def __init__(self, data: bytes, threads: int) -> None:
        self._model = compile_by_openvino(data, threads)
        self._request = self._model.create_infer_request()

    def run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        try:
            found = self._request.infer({0: x.numpy()}, share_inputs=True)
        except RuntimeError as error:
            raise as_memory_error(error) from None
        return {port.any_name: torch.from_numpy(found[port].copy()) for port in self._model.outputs}


def _of_file(name: EngineName, network: Exported, threads: int) -> Engine:
    """The engine of an exported file: what its own form is computed by, or OpenVINO, which reads ONNX files as they are."""
    onnx = network.onnx
    match name:
        case "torch":
            engine = Engine(network)
        case "onnxruntime" if onnx is not None:
            engine = Engine(network)
        case "openvino" if onnx is not None:
            engine = Engine(network.computed_by(_OpenVinoFile(onnx, threads)))
        case _:
            raise UserError(
                f"engine {name}: an exported file of form {network.cfg.form} is not computed by it; leave engine out"
            )
    engine.name = name
    return engine


def require_engine(name: EngineName) -> None:
    """UserError where what an engine is made of is not installed."""
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"engine {name} needs {', '.join(missing)}, not installed: pip install 'maskmill[{name}]', or set engine: torch"
        )
    if name == "compile" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError(
            "engine compile needs a C++ compiler (g++), found none on PATH: install one, or set engine: torch"
        )


def _tried(engine: Engine, x: torch.Tensor) -> torch.Tensor:
    """An engine's logits; UserError where it takes a graph and fails on it, as ONNX Runtime does on UPerNet's poolings."""
    try:
        return engine.logits(x)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of each engine's own kinds
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"engine {engine.name}: it fails on {type(engine.network).__name__} ({first_line:.200}); set engine: torch"
        ) from error


def _checked(engine: Engine) -> Engine:
    """UserError where an engine's numbers on a small input are not torch's: it has misread the network."""
    network = engine.network
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(network.mean), *network.legal_size(64, 96), generator=generator)
    with torch.inference_mode():
        expected, found = Engine(network).logits(x), _tried(engine, x)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"engine {engine.name}: the logits of {type(network).__name__} differ from torch's by {difference:.2g} of the "
            f"largest, allowed is {TOLERANCE}; set engine: torch"
        )
    return engine
