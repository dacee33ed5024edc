"""Evaluation: tasks, likelihoods of candidate answers, generated text, and the metrics made of them."""
