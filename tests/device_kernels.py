"""The Triton kernels of the dense CRF without a GPU: interpreted on CPU tensors, and compiled for Hopper.

`TRITON_INTERPRET=1 python -m tests.device_kernels` runs each step on small tables beside torch's and whole inferences too.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from pipeline.crf.gpu import inference, torch_steps
from pipeline.crf.gpu.steps import Sums, padded
from tests.crf_cases import SOFT, noisy_probs

CASES = [1, 5, 19, 35]  # classes: padding of 3, 3, 1 and 1; the last has more than one block of columns


def _tables(num_classes: int) -> dict[str, torch.Tensor]:
    """Random tables of 2 images of 21 pixels, and 37 rows."""
    rng = torch.Generator().manual_seed(num_classes)
    columns = padded(num_classes)

    def ids(shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=rng, dtype=torch.int32)

    # Sums of none, one, few and many entries.
    start = torch.tensor([0, 0, 1, 4, 70, 70, 75], dtype=torch.int32)
    scores = torch.randn(42, columns, generator=rng) * 3
    scores[:, num_classes:] = -1e4
    return {
        "source": torch.rand(2, num_classes, 21, generator=rng) * (torch.rand(2, num_classes, 21, generator=rng) > 0.2),
        "scores": scores,
        "values": torch.randn(37, columns, generator=rng),
        "index": ids((75,), 0, 37),
        "share": torch.rand(75, generator=rng),
        "start": start,
        "neighbours": ids((2, 37), -1, 37),
        "vertex": ids((42, 9), 0, 37),
        "weight": torch.rand(42, 9, generator=rng),
        "factors": torch.rand(columns, generator=rng),
    }


def _assert_steps_equal(num_classes: int) -> None:
    from pipeline.crf.gpu import triton_steps

    t = _tables(num_classes)
    sums = Sums(t["index"], t["share"], t["start"])
    corners = t["values"], t["vertex"], t["weight"], t["scores"]
    pairs = []
    for steps in (torch_steps, triton_steps):
        pairs.append(
            [
                *steps.open(t["source"], True),
                *steps.open(t["source"], False),
                steps.add_up(t["values"], sums),
                steps.blur(t["values"], t["neighbours"]),
                steps.update(*corners, None),
                steps.update(*corners, t["factors"]),
                steps.close(*corners, None, (2, num_classes, 21)),
                steps.close(*corners, t["factors"], (2, num_classes, 21)),
            ]
        )
    for theirs, ours in zip(*pairs, strict=True):
        assert ours.shape == theirs.shape and ours.is_contiguous()
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


def _assert_inference_equal() -> None:
    """Two images of 7 x 9 (pixels that are no multiple of 4), of which one is flat: a vertex of many pieces."""
    from pipeline.crf.gpu import triton_steps

    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(0, 60, (7, 9, 3)), np.full((7, 9, 3), 80)]).astype(np.uint8)
    probs = np.stack([noisy_probs(rng.integers(0, 3, (7, 9)), 3, seed) for seed in range(2)])
    cfg = SOFT.model_copy(update={"iterations": 2})
    weighted = cfg.model_copy(update={"class_weights": {"b": 0.3}})
    found = []
    for steps in (torch_steps, triton_steps):
        inference.steps_for = lambda device, steps=steps: steps
        given = torch.from_numpy(probs), torch.from_numpy(images)
        found.append([inference.dense_crf_batch(*given, one, ("a", "b", "c")) for one in (cfg, weighted)])
    assert (found[0][0] - torch.from_numpy(probs)).abs().max() > 0.1
    assert (found[0][1] - found[0][0]).abs().max() > 0.1
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 1e-6


def compile_for_hopper(name: str, columns: int = 32, planes: bool = False, weighted: bool = False) -> dict[str, int]:
    """Registers, stack and local memory a thread, and vector loads, of a kernel as launched for 19 classes; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.crf.gpu import triton_steps

    kernel = getattr(triton_steps, name)
    rows = triton_steps._TILE // columns // (2 if name == "_add_up" else 1)
    rows = max(16, rows) if planes or name == "_open" else rows
    constants = {
        "ARE_PROBS": True,
        "PLANES": planes,
        "WEIGHTED": weighted,
        "CORNERS": 9,
        "COLUMNS": columns,
        "ROWS": rows,
    }
    tables = {"source", "scores", "marginals", "table", "weight", "result", "values", "factors"}
    kinds, aligned = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        match argument:
            case _ if argument in constants:
                kinds[argument] = "constexpr"
            case "num_rows" | "num_classes" | "quads":
                kinds[argument] = "i32"
            case _:
                kinds[argument] = "*fp32" if argument in tables else "i32" if argument == "num_pixels" else "*i32"
                aligned[(place,)] = [["tt.divisibility", 16]]
    fixed = {(place,): constants[a] for place, a in enumerate(kernel.arg_names) if a in constants}
    source = ASTSource(kernel, signature=kinds, constexprs=fixed, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=triton_steps._LAUNCH)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told.stdout)}
    return {
        **usage,
        "vector loads": len(re.findall(r"ld\.global\.v4|ld\.global\.L\S*\.v4|v4\.b32", compiled.asm["ptx"])),
    }


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "run it with TRITON_INTERPRET=1"
    for num_classes in CASES:
        _assert_steps_equal(num_classes)
    _assert_inference_equal()
    print(f"{len(CASES)} cases are equal")
