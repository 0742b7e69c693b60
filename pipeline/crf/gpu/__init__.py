"""The dense CRF on a device, in batches, with torch and Triton: scores stay on the device, and the mode is exact.

The pipeline calls `sharpen`, or `sharpen_together` for several images of one size, whatever device the scores are on.
`dense_crf_batch` is the device path itself: Triton kernels on CUDA; torch operations that do the same on CUDA without a C
compiler, and on any other device (CPU tensors, for tests). `inference.steps_for` chooses between them.
Compared with `pipeline.crf.dense_crf` on five photographs, every label was the same; marginals differed by at most 1.8e-5, at a
pixel between two labels where this path is closer to the same steps in float64 (configs/LOG.md). The same input gives the same
bits in any batch.

Kernels are Potts kernels with symmetric normalisation and a weight per class, as in `CrfConfig`. For other compatibilities and
normalisations use `pipeline.crf.DenseCRF`, on the CPU.
"""

from pipeline.crf.gpu.inference import dense_crf_batch, sharpen, sharpen_together

__all__ = ["dense_crf_batch", "sharpen", "sharpen_together"]
