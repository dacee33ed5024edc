"""Evaluation of a model: tasks, likelihoods of candidate answers, generated text, metrics."""
