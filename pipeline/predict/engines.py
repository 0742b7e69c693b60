"""Engines that compute a network's logits: torch, layer by layer, or a faster one that runs the same network.

Letters: N batch, C classes, D bands, H rows, W columns; x is normalised and has a legal size for the network.
"""

import importlib.util
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F

from pipeline.config import EngineName, PredictPrecision
from pipeline.errors import UserError
from pipeline.models import Exported, Network, onnx_file
from pipeline.models.cpp_compiler import cpp_compiler, has_cpp_compiler
from pipeline.models.export import TOLERANCE, Ending, to_onnx
from pipeline.models.exported_file import ExportedFile
from pipeline.models.onnx_file import as_memory_error

# Packages that each engine needs besides torch; the first is its own, whose version a run records.
PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "torch": (),
    "compile": (),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "tensorrt": ("onnxruntime-gpu", "onnx", "onnxscript"),
}
GRAPHS: tuple[EngineName, ...] = ("onnxruntime", "openvino", "tensorrt")  # engines that load the network as ONNX
# Largest difference from torch's logits, relative to the largest logit; int8 is judged by its labels on the run's images.
TOLERANCES: dict[PredictPrecision, float] = {"fp32": TOLERANCE, "bf16": 0.1, "int8": float("inf")}
_MODULES = {"onnxruntime-gpu": "onnxruntime"}  # packages whose module has another name
_TENSORRT = "TensorrtExecutionProvider"
_exported: WeakKeyDictionary[Network, bytes] = WeakKeyDictionary()


class Engine:
    """Computes logits with torch; subclasses compute the same with other engines.

    Args:
        network: in eval mode.
    """

    name: EngineName = "torch"

    def __init__(self, network: Network) -> None:
        self.network = network

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """Return coarse logits (N, C, h, w) of x (N, D, H, W), for networks with `enlarges`."""
        return self.network.coarse(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return full-size logits (N, C, H, W) of x (N, D, H, W)."""
        logits: torch.Tensor = self.network(x)[-1]
        return logits


class _Whole(Engine):
    """Base of engines that compute the network up to its `Ending`; if its logits are coarse, torch enlarges them."""

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
    """torch.compile, which compiles at the first image, and again at the second size, this time for all sizes."""

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

    def __init__(self, network: Network, onnx: bytes, threads: int) -> None:
        super().__init__(network)
        self._session = onnx_file.session(onnx, threads)

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            (end,) = self._session.run(None, {"x": x.contiguous().numpy()})
        except Exception as error:  # ONNX Runtime's errors are not RuntimeErrors
            raise as_memory_error(error) from None
        return torch.from_numpy(end)


class TensorRt(_Whole):
    """TensorRT on a GPU, through ONNX Runtime, with CUDA for operators that TensorRT lacks; it compiles for each new size."""

    name = "tensorrt"

    def __init__(self, network: Network, onnx: bytes, precision: PredictPrecision) -> None:
        super().__init__(network)
        import onnxruntime

        wanted = (_TENSORRT, {"trt_bf16_enable": precision == "bf16"})
        self._session = onnxruntime.InferenceSession(onnx, providers=[wanted, "CUDAExecutionProvider"])
        if self._session.get_providers()[0] != _TENSORRT:  # ONNX Runtime drops providers that do not load
            raise UserError(
                "engine tensorrt: ONNX Runtime could not load TensorRT here, whose libraries are not found or of another "
                "version; install the tensorrt that your onnxruntime-gpu names, or set engine: torch"
            )

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            (end,) = self._session.run(None, {"x": x.contiguous().cpu().numpy()})
        except Exception as error:
            raise as_memory_error(error) from None
        return torch.from_numpy(end).to(x.device)


class OpenVino(_Whole):
    """OpenVINO on the CPU, in float32 unless bfloat16 is requested, even on processors that support bfloat16."""

    name = "openvino"

    def __init__(self, network: Network, onnx: bytes, threads: int, precision: PredictPrecision) -> None:
        super().__init__(network)
        self._request = compile_by_openvino(onnx, threads, precision).create_infer_request()

    def _end(self, x: torch.Tensor) -> torch.Tensor:
        try:
            found = self._request.infer({0: x.contiguous().numpy()}, share_inputs=True)
        except RuntimeError as error:
            raise as_memory_error(error) from None
        return torch.from_numpy(found[0])


def compile_by_openvino(onnx: bytes, threads: int, precision: PredictPrecision = "fp32") -> Any:
    """Return an ONNX file as OpenVINO's CompiledModel."""
    import openvino  # type: ignore[import-untyped]

    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "ENABLE_CPU_PINNING": False,  # several actors would be pinned to the same cores
    }  # fmt: skip
    core = openvino.Core()
    return core.compile_model(core.read_model(onnx), "CPU", settings)


def build_engine(
    name: EngineName, network: Network, threads: int, precision: PredictPrecision = "fp32", kept: bytes | None = None
) -> Engine:
    """Return the engine of this name for a network on the CPU.

    Args:
        precision: precision of the engine; for torch, the predictor sets it.
        kept: the network as ONNX, if it was exported before; required for int8, in quantised form. If it is damaged or belongs
            to another network, it is exported again, except for int8.
    Raises:
        UserError: a package of the engine is not installed, or the engine does not accept the network.
    """
    require_engine(name)
    if isinstance(network, Exported):
        return _of_file(name, network, threads)
    if name == "openvino" and precision == "bf16":
        _require_bfloat16()
    if name == "torch":
        return Engine(network)
    if name == "compile":
        return Compiled(network)
    if kept is not None:
        try:
            return _checked(_of_graph(name, network, kept, threads, precision), precision)
        except Exception:  # each engine has errors of its own
            if precision == "int8":
                raise
    assert precision != "int8"  # it comes from `quantise`, as `kept`
    return _checked(_of_graph(name, network, onnx_of(network), threads, precision), precision)


def _of_graph(
    name: EngineName, network: Network, onnx: bytes, threads: int, precision: PredictPrecision
) -> OnnxRuntime | OpenVino | TensorRt:
    if name == "tensorrt":
        return TensorRt(network, onnx, precision)
    return OnnxRuntime(network, onnx, threads) if name == "onnxruntime" else OpenVino(network, onnx, threads, precision)


def onnx_of(network: Network) -> bytes:
    """Return a network's `Ending` as ONNX, exported once per process, which takes seconds; UserError as in `to_onnx`."""
    if network not in _exported:
        _exported[network] = to_onnx(network)
    return _exported[network]


class _OpenVinoFile(ExportedFile):
    """An ONNX file that was exported elsewhere, computed by OpenVINO."""

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
    """Return the engine for an exported file: the runtime of the file's form, or OpenVINO, which can read ONNX files."""
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
    """Raise UserError if something that an engine needs is not installed."""
    missing = [one for one in PACKAGES[name] if importlib.util.find_spec(_MODULES.get(one, one)) is None]
    if missing:
        raise UserError(
            f"engine {name} needs {', '.join(missing)}, not installed: pip install 'maskmill[{name}]', or set engine: torch"
        )
    if name == "compile" and not has_cpp_compiler():
        raise UserError(
            f"engine compile needs a C++ compiler, and {cpp_compiler()} is not on PATH: install one, let CXX name one, or set "
            "engine: torch"
        )
    if name == "tensorrt":
        import onnxruntime

        if _TENSORRT not in (found := onnxruntime.get_available_providers()):
            raise UserError(
                f"engine tensorrt needs an ONNX Runtime with {_TENSORRT}, found one with {', '.join(found)}: pip install "
                "'maskmill[tensorrt]' in place of onnxruntime, or set engine: torch"
            )


def _require_bfloat16() -> None:
    """Raise UserError if the processor has no bfloat16, since OpenVINO would silently compute in float32."""
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(
            "predict.precision bf16 with engine openvino needs a processor with AVX512_BF16 or AMX, this one has neither; set "
            "predict.precision: fp32, or int8"
        )


def _tried(engine: Engine, x: torch.Tensor) -> torch.Tensor:
    """Return an engine's logits; UserError if it fails on a graph that it loaded, as ONNX Runtime does on UPerNet's pooling."""
    try:
        return engine.logits(x)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each engine has errors of its own
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"engine {engine.name}: it fails on {type(engine.network).__name__} ({first_line:.200}); set engine: torch"
        ) from error


def _checked(engine: Engine, precision: PredictPrecision) -> Engine:
    """Return the engine; UserError if its logits on a small input differ from torch's, so it has misread the network."""
    network, allowed = engine.network, TOLERANCES[precision]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(network.mean), *network.legal_size(64, 96), generator=generator)
    with torch.inference_mode():
        expected, found = Engine(network).logits(x), _tried(engine, x)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= allowed:
        raise UserError(
            f"engine {engine.name}: the logits of {type(network).__name__} differ from torch's by {difference:.2g} of the "
            f"largest, allowed is {allowed}; set engine: torch"
        )
    return engine
