"""What a run leaves on disk: its config, checkpoints, logs, samples and pictures."""
