"""Data rows on disk, prompts, token ids, pictures, random draws and padded batches."""
