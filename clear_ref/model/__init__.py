"""The model room: vision-language models in plain PyTorch, their weights, adapters, generation."""
