"""Paste into a transformers script: writes what a loss was computed from, for `python -m clear_ref.run diff FILE`."""

import json

import torch
from safetensors.torch import save_file


def look(model, inputs, labels, teacher=None):
    """{name: tensor} of one batch: what the model makes of the processor's inputs. labels as for model(labels=)."""
    base, seen = getattr(model, "model", model), {}
    decoder = getattr(base, "language_model", base)
    projector = getattr(base, "multi_modal_projector", None)
    first = lambda module, args, kwargs: seen.update(
        embeddings=args[0] if args else kwargs["hidden_states"]
    )  # noqa: E731
    hooks = [
        decoder.layers[0].register_forward_pre_hook(first, with_kwargs=True),
        decoder.norm.register_forward_hook(lambda module, args, output: seen.update(hidden=output)),
    ]
    if projector is not None:
        hooks.append(
            projector.register_forward_hook(
                lambda module, args, output: seen.update(features=output)
            )
        )
    seen |= {name: tensor for name, tensor in inputs.items() if isinstance(tensor, torch.Tensor)}
    seen |= {"labels": labels, "logits": model(**inputs, use_cache=False).logits}
    for hook in hooks:
        hook.remove()
    if teacher is not None:
        with torch.no_grad():
            seen["teacher_logits"] = teacher(**inputs, use_cache=False).logits
    return seen


def write(
    path, batches, method=None, semantics="paper", options=None, loss=None, terms=None, records=None
):
    """batches {"forget": look(...), ...}, your own nll, ... [B, T] among them; loss, terms: made of their logits."""
    tensors = {
        f"{batch}/{name}": tensor
        for batch, seen in batches.items()
        for name, tensor in seen.items()
    }
    tensors |= {f"term/{name}": term for name, term in (terms or {}).items()} | (
        {} if loss is None else {"loss": loss}
    )
    if loss is not None and loss.grad_fn is not None:
        logits = {batch: seen["logits"] for batch, seen in batches.items()}
        slopes = torch.autograd.grad(
            loss, list(logits.values()), retain_graph=True, allow_unused=True
        )
        tensors |= {
            f"{batch}/gradient": slope for batch, slope in zip(logits, slopes) if slope is not None
        }
    about = {
        "format": "clear_ref.dump/1",
        "method": method or "",
        "semantics": semantics,
        "options": json.dumps(options or {}),
        "records": json.dumps(records or {}),
    }
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        path,
        about,
    )
