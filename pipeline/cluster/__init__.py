"""Ray, started on this machine or joined on a cluster: connection, cores and memory of its workers, and job submission."""
