"""What computes a network's logits: torch, layer by layer, or a faster engine on the CPU that is given the same network.

Letters: N batch, C classes, D bands, H rows, W columns; x is normalised and of a legal size, as networks take it.
"""

import importlib.util
import os
import shutil

import torch
import torch.nn.functional as F

from pipeline.config import EngineName
from pipeline.errors import UserError
from pipeline.models import Network
from pipeline.models.export import TOLERANCE, Ending, to_onnx

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
    """ONNX Runtime on the CPU.

    Its threads spin while a pass runs, since they wait for each other at every layer, and stop with it: between two passes the
    cores belong to decoding.
    """

    name = "onnxruntime"

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors; its warnings are about its own choices
        self._session = onnxruntime.InferenceSession(to_onnx(network), options, providers=["CPUExecutionProvider"])

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            (end,) = self._session.run(None, {"x": x.contiguous().numpy()})
        except Exception as error:  # of its own, which are no RuntimeError
            raise _as_memory_error(error) from None
        return torch.from_numpy(end)


class OpenVino(_Whole):
    """OpenVINO on the CPU, in float32 on processors that have bfloat16 too."""

    name = "openvino"

    def __init__(self, network: Network, threads: int) -> None:
        super().__init__(network)
        import openvino  # type: ignore[import-untyped]

        settings = {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # several actors would be pinned to the same cores
        }  # fmt: skip
        core = openvino.Core()
        self._request = core.compile_model(core.read_model(to_onnx(network)), "CPU", settings).create_infer_request()

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            found = self._request.infer({0: x.contiguous().numpy()}, share_inputs=True)
        except RuntimeError as error:
            raise _as_memory_error(error) from None
        return torch.from_numpy(found[0])


def build_engine(name: EngineName, network: Network, threads: int) -> Engine:
    """The engine of that name for a network on the CPU.

    Raises:
        UserError: what it is made of is not installed, or it does not take the network.
    """
    require_engine(name)
    match name:
        case "torch":
            return Engine(network)
        case "compile":
            return Compiled(network)
        case "onnxruntime":
            return _checked(OnnxRuntime(network, threads))
        case "openvino":
            return _checked(OpenVino(network, threads))


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


def _checked(engine: Engine) -> Engine:
    """UserError where an engine's numbers on a small input are not torch's: it has misread the network."""
    network = engine.network
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(network.mean), *network.legal_size(64, 96), generator=generator)
    with torch.inference_mode():
        expected, found = Engine(network).logits(x), engine.logits(x)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"engine {engine.name}: the logits of {type(network).__name__} differ from torch's by {difference:.2g} of the "
            f"largest, allowed is {TOLERANCE}; set engine: torch"
        )
    return engine


def _as_memory_error(error: Exception) -> Exception:
    """An engine's error; as MemoryError where it says that the memory is full, since each says it in its own words."""
    words = str(error).lower()
    full = any(sign in words for sign in ("bad alloc", "bad_alloc", "failed to allocate"))
    return MemoryError(str(error)) if full else error
