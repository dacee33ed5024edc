"""Training: which records a step sees, the optimiser step, the teacher, checkpoints."""
