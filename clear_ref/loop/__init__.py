"""The loop room: which records a step sees, the optimiser step, checkpoints."""
