"""Training of classifiers and detectors: loop, processes, checkpoints, the run's folder, batches from workers."""
