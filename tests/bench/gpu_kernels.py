"""Every Triton kernel compiled for GPUs that need not be present: registers, spills, shared memory.

python -m tests.bench.gpu_kernels [--classes N ...] [--capabilities 80 90 100]    half a minute of one core

Kernels are compiled as the pipeline's functions launch them, with the constants, types and alignments of their arguments, by
the ptxas that comes with Triton. Spills are what a thread keeps in local memory because it has too few registers.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from pipeline.crf.gpu import triton_steps
from pipeline.crf.gpu.steps import Sums, padded
from pipeline.predict import upsample_gpu
from tests.bench.turns import show

CAPABILITIES = {80: "A100", 90: "H100, H200", 100: "B200"}
CLASSES = (1, 2, 19, 21, 150, 171)
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass(frozen=True)
class Launch:
    """One call of a kernel, as Triton would meet it."""

    name: str
    kernel: JITFunction
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]  # places of the arguments that are multiples of 16
    options: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """What a thread of a compiled kernel takes; shared memory is a program's."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    vector_loads: int  # of 16 bytes
    ttir: str


def launches(work: Callable[[], object], *modules: ModuleType) -> list[Launch]:
    """What a function of the pipeline launches; nothing is run, so its tensors may be on torch's "meta" device."""
    found: list[Launch] = []

    class Written:
        def __init__(self, kernel: JITFunction) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *given, **named: found.append(_launch(self.kernel, given, named))

    kernels = [
        (module, name, kernel)
        for module in modules
        for name, kernel in vars(module).items()
        if isinstance(kernel, JITFunction)
    ]
    try:
        for module, name, kernel in kernels:
            setattr(module, name, Written(kernel))
        work()
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)
    return found


def _launch(kernel: JITFunction, given: Sequence[Any], named: dict[str, Any]) -> Launch:
    options = {name: named.pop(name) for name in _OPTIONS if name in named}
    values = dict(zip(kernel.arg_names, given, strict=False)) | named
    signature, constants, aligned = {}, {}, []
    for place, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
        value = values[name]
        may_specialize = not parameter.do_not_specialize
        if parameter.is_constexpr or (may_specialize and isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            kind = {torch.float32: "fp32", torch.int32: "i32", torch.uint8: "u8"}[value.dtype]
            signature[name] = f"*{kind}"
            aligned.append(place)
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 1 << 31 else "i64"
            aligned += [place] if may_specialize and value % 16 == 0 else []
    return Launch(kernel.__name__, kernel, signature, constants, tuple(aligned), options)


def all_launches(num_classes: int, height: int = 1024, width: int = 2048) -> Iterator[tuple[str, Launch]]:
    """(what for, launch) of all kernels for images of a size; distinct ones alone."""
    pixels, rows, corners = height * width, 300_001, 9

    def table(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    columns = padded(num_classes)
    probs, values, scores = table(1, num_classes, pixels), table(rows, columns), table(pixels, columns)
    sums = Sums(table(pixels, dtype=torch.int32), table(pixels), table(rows + 1, dtype=torch.int32))
    corner = table(pixels, corners, dtype=torch.int32), table(pixels, corners), scores
    coarse = table(num_classes, height // 8, width // 8)
    coarse = coarse.as_strided(coarse.shape, (1, coarse.shape[2] * num_classes, num_classes))  # channels last
    size = height, width
    works: dict[str, Callable[[], object]] = {
        "probabilities": lambda: triton_steps.open(probs, True),
        "energies": lambda: triton_steps.open(probs, False),
        "marginals": lambda: triton_steps.add_up(scores, sums),
        "weights": lambda: triton_steps.add_up(table(pixels, 4), sums),
        "": lambda: triton_steps.blur(values, table(2, rows, dtype=torch.int32)),
        "rows": lambda: triton_steps.update(values, *corner, None),
        "rows, class weights": lambda: triton_steps.update(values, *corner, table(columns)),
        "planes": lambda: triton_steps.close(values, *corner, None, (1, num_classes, pixels)),
        "labels": lambda: upsample_gpu.enlarge_argmax_gpu(coarse, size, size),
        "confidence": lambda: upsample_gpu.enlarge_confidence_gpu(coarse, size, size),
    }
    for purpose, work in works.items():
        for launch in launches(work, triton_steps, upsample_gpu):
            yield purpose, launch


def compile_for(launch: Launch, capability: int) -> Usage:
    """Compiled for one kind of GPU, without one."""
    places = {name: place for place, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        launch.kernel,
        signature=launch.signature,
        constexprs={(places[name],): value for name, value in launch.constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place in launch.aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", told.stdout)}
    return Usage(
        usage["REG"],
        usage["STACK"] + usage["LOCAL"],
        usage["SHARED"],
        len(re.findall(r"ld\.global\.v4|ld\.global\.L\S*\.v4|v4\.b32", compiled.asm["ptx"])),
        compiled.asm["ttir"],
    )


def table_of(classes: Sequence[int], capabilities: Sequence[int]) -> Iterator[list[str]]:
    for num_classes in classes:
        for purpose, launch in all_launches(num_classes):
            found = [compile_for(launch, capability) for capability in capabilities]
            yield [
                str(num_classes), launch.name, purpose,
                *(f"{one.registers} / {one.spilled_bytes} / {one.shared_bytes}" for one in found),
            ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="*", type=int, default=CLASSES)
    parser.add_argument("--capabilities", nargs="*", type=int, default=list(CAPABILITIES))
    args = parser.parse_args()
    names = [f"sm_{capability} {CAPABILITIES.get(capability, '')}".strip() for capability in args.capabilities]
    show(
        f"Triton {triton.__version__}: registers / spilled bytes of a thread / shared bytes of a program",
        ["classes", "kernel", "of", *names],
        table_of(args.classes, args.capabilities),
    )


if __name__ == "__main__":
    main()
