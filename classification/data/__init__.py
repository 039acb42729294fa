"""Data for classification: sets, training operators, batches that depend on seed, epoch and sample only."""
