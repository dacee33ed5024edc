"""The model room: a vision-language model written out in plain PyTorch, its weights, its adapters, its generation."""
