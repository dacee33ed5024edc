"""Paste into a script that uses transformers: writes what a loss was computed from.

Compare the file that `write_dump` writes with `python -m clear_ref.run diff FILE`.
"""

import json
from typing import Any

import torch
from safetensors.torch import save_file


def batch_tensors(model: Any, inputs: dict, labels: torch.Tensor, teacher: Any = None) -> dict:
    """{name: tensor} of one batch: the processor's inputs and what the model computes from them.

    labels  as for model(labels=...): aligned with input_ids, -100 is ignored
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    base = getattr(model, "model", model)
    decoder = getattr(base, "language_model", base)
    projector = getattr(base, "multi_modal_projector", None)

    def keep_input(module: Any, args: tuple, kwargs: dict) -> None:
        tensors["embeddings"] = args[0] if args else kwargs["hidden_states"]

    def keep_hidden(module: Any, args: tuple, output: torch.Tensor) -> None:
        tensors["hidden"] = output

    def keep_features(module: Any, args: tuple, output: torch.Tensor) -> None:
        tensors["features"] = output

    hooks = [
        decoder.layers[0].register_forward_pre_hook(keep_input, with_kwargs=True),
        decoder.norm.register_forward_hook(keep_hidden),
    ]
    if projector is not None:
        hooks.append(projector.register_forward_hook(keep_features))
    tensors |= {"labels": labels, "logits": model(**inputs, use_cache=False).logits}
    for hook in hooks:
        hook.remove()
    if teacher is not None:
        with torch.no_grad():
            tensors["teacher_logits"] = teacher(**inputs, use_cache=False).logits
    return tensors


def write_dump(
    path: Any, batches: dict, loss: Any = None, terms: dict | None = None, **metadata: Any
) -> None:
    """Write {"forget": batch_tensors(...), ...}; you may add your own nll, ... [B, T] to a batch.

    loss, terms {name: scalar}  computed from the logits in `batches`
    metadata  method="npo", semantics="paper", options={"beta": 0.1},
              records={"forget": [{"question": "...", "answer": "...", "image": path or None}]}
    """
    tensors = {f"term/{name}": term for name, term in (terms or {}).items()}
    for batch, own in batches.items():
        tensors |= {f"{batch}/{name}": tensor for name, tensor in own.items()}
    if loss is not None:
        tensors["loss"] = loss
    if loss is not None and loss.grad_fn is not None:
        logits = [own["logits"] for own in batches.values()]
        gradients = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
        for batch, gradient in zip(batches, gradients, strict=True):
            if gradient is not None:
                tensors[f"{batch}/gradient"] = gradient
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    texts = {"format": "clear_ref.dump/1"}
    for key, value in metadata.items():
        texts[key] = value if isinstance(value, str) else json.dumps(value)
    save_file(stored, path, texts)
