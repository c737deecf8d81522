"""Running a federation on this machine: the in-process grid, workers, loopback processes, partitioning, faults."""
