"""Where Ray runs: in this process or on a cluster, the cores and memory of its workers, and jobs submitted to it."""
