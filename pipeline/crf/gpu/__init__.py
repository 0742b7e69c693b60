"""The dense CRF on a device: torch and Triton, batched, scores never leave the device; exact, as the CPU path is.

`sharpen`, and `sharpen_together` for several images of one size, are the pipeline's entries, on whatever device the scores are.
`dense_crf_batch` is the device path itself, on CUDA by Triton kernels, or where there is no C compiler, and on any other device
(CPU tensors, for tests), by the torch operations they stand for; `inference.steps_for` chooses.
Against `pipeline.crf.dense_crf`, on five photographs, every label was the same and marginals 1.8e-5 apart at worst, at a pixel
between two labels where this path is the nearer to the same steps in float64 (configs/LOG.md). The same input gives the same
bits, in any batch.

Potts kernels with symmetric normalisation and a weight for each class, as `CrfConfig` describes them; other
compatibilities and normalisations are `pipeline.crf.DenseCRF`'s, on the CPU.
"""

from pipeline.crf.gpu.inference import dense_crf_batch, sharpen, sharpen_together

__all__ = ["dense_crf_batch", "sharpen", "sharpen_together"]
