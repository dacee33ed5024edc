"""Paste into a script that uses transformers: writes what a loss was computed from.

Compare the file that `write_dump` writes with `python -m clear_ref.run diff FILE`.
"""

import json
from typing import Any

import torch
from safetensors.torch import save_file

INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")


def batch_tensors(model: Any, inputs: dict, labels: torch.Tensor, teacher: Any = None) -> dict:
    """{name: tensor} of one batch: the processor's inputs and what the model computes from them.

    labels  as for model(labels=...): aligned with input_ids, -100 is ignored
    """
    tensors = {name: inputs[name] for name in INPUTS if name in inputs}
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT
    base = getattr(whole, "model", whole)
    decoder = getattr(base, "language_model", base)

    def keep(name: str, value: Any) -> None:
        tensors[name] = getattr(value, "pooler_output", value)  # of a vision tower

    def keep_input(name: str, number: int) -> Any:
        return lambda module, args, kwargs: keep(name, [*args, *kwargs.values()][number])

    def keep_output(name: str) -> Any:
        return lambda module, args, output: keep(name, output)

    first, rotary = decoder.layers[0], decoder.rotary_emb
    hooks = [
        first.register_forward_pre_hook(keep_input("embeddings", 0), with_kwargs=True),
        rotary.register_forward_pre_hook(keep_input("position_ids", 1), with_kwargs=True),
        decoder.norm.register_forward_hook(keep_output("hidden")),
    ]
    for name in ("multi_modal_projector", "visual"):  # of LLaVA; of Qwen2-VL and Qwen2.5-VL
        if hasattr(base, name):
            hooks.append(getattr(base, name).register_forward_hook(keep_output("features")))
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
