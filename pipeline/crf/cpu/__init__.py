"""Mean-field inference on CPU cores, compiled by Numba: the lattice, its blur, the fused steps, threads and SIMD vectors."""
