"""Rows on disk, pictures, prompts, batches and all randomness."""
