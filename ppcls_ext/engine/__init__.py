"""What every training run needs, whatever it trains: processes, checkpoints, the run's folder, batches from workers."""
