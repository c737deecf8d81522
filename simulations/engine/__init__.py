"""Running a federation on this machine: the in-process grid, workers, real local processes, partitioning, faults."""
