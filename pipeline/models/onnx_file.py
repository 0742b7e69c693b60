"""Reading what an ONNX file declares, and running it with ONNX Runtime on the CPU."""

from collections.abc import Iterator
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.models.outside import package

MAX_BYTES = 2**31 - 1  # size limit of an ONNX message (protobuf)
_DTYPES = {"FLOAT": "float32", "FLOAT16": "float16", "UINT8": "uint8", "DOUBLE": "float64"}


def parse(data: bytes, where: str) -> Any:
    """Parse the file to a ModelProto.

    Raises:
        UserError: it is not ONNX, or the package onnx is missing.
    """
    onnx = package("onnx", "onnxruntime")
    try:
        proto = onnx.load_model_from_string(data)
    except Exception:  # protobuf's DecodeError; protobuf is not a dependency of ours
        proto = None
    if proto is None or not proto.graph.node:
        raise UserError(
            f"{where}: not a readable file of ONNX, torch.export or TorchScript; copy it again, or export it again"
        )
    return proto


def stored_elsewhere(proto: Any) -> list[Any]:
    """Return the tensors whose bytes are in other files, including those of subgraphs and functions."""
    return [tensor for tensor in _tensors(proto) if tensor.external_data or tensor.data_location == tensor.EXTERNAL]


def taken_in(data: bytes, uri: str) -> bytes:
    """Return the file at a URI with the tensors that are in files beside it, as one file.

    Raises:
        UserError: a file of tensors is outside the file's folder, is missing or too short, or the whole is too large.
    """
    proto = parse(data, uri)
    stored = stored_elsewhere(proto)
    if not stored:
        return data
    files: dict[str, bytes] = {}
    for tensor in stored:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if name not in files:
            files[name] = _read_beside(uri, name)
            if sum(map(len, files.values())) + len(data) > MAX_BYTES:
                raise UserError(f"{uri}: over 2 GB with its tensors, and ONNX holds at most so much in one file")
        start = int(entries.get("offset", 0))
        length = int(entries.get("length", len(files[name]) - start))
        if start + length > len(files[name]):
            raise UserError(f"{uri}: {name} beside it is too short for the tensor {tensor.name}; copy both again")
        tensor.raw_data = files[name][start : start + length]
        tensor.ClearField("external_data")
        tensor.data_location = tensor.DEFAULT
    whole: bytes = proto.SerializeToString()
    return whole


def _read_beside(uri: str, name: str) -> bytes:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(
            f"{uri}: it keeps tensors in '{name}', which is not a file in its own folder; export it as one file "
            "(external_data=False)"
        )
    beside = storage.join(storage.absolute(uri).rpartition("/")[0], name)
    try:
        return storage.read(beside)
    except FileNotFoundError:
        raise UserError(f"{uri}: its tensors lie in {name}, which is not beside it; copy both") from None


def inputs(proto: Any) -> list[Any]:
    """Return the inputs, without the weights that old files also list there."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [one for one in proto.graph.input if one.name not in weights]


def shape_of(port: Any) -> tuple[int | None, ...] | None:
    """Return the sizes of an input, with None for each that is open, which some programs write as -1 or 0.

    None if even the number of dimensions is open.
    """
    kind = port.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)


def dtype_of(port: Any) -> str:
    name = package("onnx", "onnxruntime").TensorProto.DataType.Name(port.type.tensor_type.elem_type)
    return _DTYPES.get(name, str(name).lower())


def operators(proto: Any) -> list[str]:
    """Return the graph's operators as domain.name, sorted, without the file's own functions; ONNX's own have no domain."""
    own = {(function.domain, function.name) for function in proto.functions}
    used = {(node.domain, node.op_type) for node in proto.graph.node} - own
    return sorted(f"{domain}.{name}" for domain, name in used)


def session(data: bytes, threads: int) -> Any:
    """Create an InferenceSession on the CPU.

    Its threads spin during a pass, since they wait for each other at every layer, and stop with it, so that the cores are free
    for decoding between passes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # errors are raised, so they need no log line
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def as_memory_error(error: Exception) -> Exception:
    """Return an engine's error as a MemoryError if its message says that memory is full; other errors unchanged."""
    said = str(error).lower()
    full = any(sign in said for sign in ("bad alloc", "bad_alloc", "failed to allocate"))
    return MemoryError(str(error)) if full else error


def _tensors(message: Any) -> Iterator[Any]:
    for _, value in message.ListFields():
        for one in [value] if hasattr(value, "ListFields") else value if hasattr(value, "append") else ():
            if not hasattr(one, "ListFields"):
                break  # numbers
            if one.DESCRIPTOR.name == "TensorProto":
                yield one
            else:
                yield from _tensors(one)
