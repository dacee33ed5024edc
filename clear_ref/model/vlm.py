"""The model as its users hold it: weights, tokenizer, template and picture processor of one directory."""

from contextlib import contextmanager
from pathlib import Path

import torch

from clear_ref.common.devices import device_of, dtype_of
from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.common.files import read_json, write_bytes, write_json
from clear_ref.data.batches import Batch, collate
from clear_ref.data.images import open_image
from clear_ref.data.prompts import choose_template
from clear_ref.data.tokens import Tokenizer

from . import lora, peft_format
from .families import family
from .generate import Prefilled, generation, greedy, prefill
from .language import at_least_float32
from .weights import INDEX, fitting_weights, load_weights, write_weights

MASKS = ("answer", "released")


class VLM:
    """A vision-language model. Made by `load`; `model` is the nn.Module, everything else is how text and pictures reach it."""

    def __init__(
        self, directory, dtype: torch.dtype, device: torch.device, chosen_template: str = ""
    ):
        self.directory = Path(directory)
        where = self.directory / "config.json"
        self.config_json = read_json(where)
        self.family = family(self.config_json, where)
        self.config = self.family.config(self.config_json, where)
        self.text_config = self.family.text(self.config)
        self.tokenizer = Tokenizer(self.directory)
        self.template = choose_template(self.directory, self.family.name, chosen_template)
        self.tokenizer.check(self.template)
        self.images = (
            self.family.images(self.directory, self.config) if self.family.sees_pictures else None
        )
        vocabulary = self.text_config.vocab_size
        if self.tokenizer.size > vocabulary:
            raise UserError(
                f"{self.directory}: the tokenizer has ids up to {self.tokenizer.size - 1}, the embedding has "
                f"{vocabulary} rows; the tokenizer belongs to another model"
            )
        with torch.device("meta"):
            model = self.family.model(self.config)
        image = (
            None if self.template.with_image is None else self.tokenizer.id_of(self.template.image)
        )
        if image not in (None, model.image_token_id):
            raise UserError(
                f"{self.directory}: config.json has image token {model.image_token_id}, the tokenizer's "
                f"{self.template.image} is {image}; the tokenizer belongs to another model"
            )
        self.generation = generation(self.directory, self.config_json, self.tokenizer.eos)
        self.model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)

    @property
    def device(self):
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self):
        """The compute dtype, the weights' own."""
        return next(self.model.parameters()).dtype

    def weights(self) -> dict[str, torch.Tensor]:
        """The base weights by checkpoint name, adapters left out."""
        return {
            name: tensor
            for name, tensor in self.model.named_parameters()
            if ".adapter." not in name
        }

    def tied(self) -> dict[str, str]:
        """{the head's name: the embedding's} where the two are one tensor; else nothing."""
        if not self.text_config.tie_word_embeddings:
            return {}
        decoder = next(
            name for name, module in self.model.named_modules() if module is self.model.decoder
        )
        return {f"{decoder.removesuffix('model')}lm_head.weight": f"{decoder}.embed_tokens.weight"}

    def encode(self, records, mask: str = "answer") -> Batch:
        """One batch of records; a record without an answer is a prompt alone. Padding on the left.

        mask  what the labels cover. answer: the answer's tokens. released: all but the first as many tokens as the prompt has
              with its picture counted as one (mm/dataset.py:39-51, 315-339): most of the picture, the question, the answer
        """
        if mask not in MASKS:
            raise UserError(f"label mask is {mask!r}; expected one of {', '.join(MASKS)}")
        sequences, starts, pictures = [], [], []
        for record in records:
            n_image_tokens = 0
            if record.image is not None:
                if self.images is None:
                    raise UserError(
                        f"record {record.question!r} has a picture, and {self.directory} holds a language model; "
                        "expected text alone (--modality text)"
                    )
                picture = self.images(open_image(record.image, f"record {record.question!r}"))
                pictures.append(picture)
                n_image_tokens = picture.n_tokens
            prompt = self.tokenizer.prompt(self.template, record.question, n_image_tokens)
            merged, answer = (
                (0, [])
                if record.answer is None
                else self.tokenizer.answer(self.template, record.answer)
            )
            sequences.append(prompt[: len(prompt) - merged] + answer)
            starts.append(
                len(prompt)
                - max(n_image_tokens - 1, 0) * (mask == "released" and record.answer is not None)
            )
        if not sequences:
            raise UserError("there is no record to encode; expected at least one")
        return collate(sequences, starts, pictures, self.tokenizer.pad).to(self.device, self.dtype)

    def hidden(self, batch: Batch, layer: int | None = None, start: int = 0):
        """[B, T - start, D] normed hidden states from position `start` on, or those of decoder layer `layer` (0-based)."""
        self.check_layer(layer)
        return self.model.hidden(
            batch.input_ids,
            batch.attention_mask,
            batch.pixel_values,
            batch.image_grid_thw,
            layer,
            start,
        )

    def check_layer(self, layer: int | None) -> None:
        """UserError unless `layer` is None or one of the decoder's."""
        n_layers = self.text_config.num_hidden_layers
        if layer is not None and not 0 <= layer < n_layers:
            raise UserError(
                f"decoder layer is {layer}; the model has layers 0 to {n_layers - 1}, name one of them"
            )

    def head(self, hidden):
        """Logits [..., V] of hidden states [..., D], in the model's dtype."""
        return self.model.head(hidden)

    def forward(self, input_ids, attention_mask, pixel_values=None, image_grid_thw=None):
        """Logits [B, T, V], float32 (float64 stays). image_grid_thw: see Batch.

        raises  LabelError for an id outside the vocabulary; ShapeError where tensors disagree
        """
        if input_ids.dim() != 2 or input_ids.shape != attention_mask.shape:
            raise ShapeError(
                f"input_ids are {list(input_ids.shape)}, attention_mask {list(attention_mask.shape)}; "
                "expected the same [B, T]"
            )
        vocabulary = self.text_config.vocab_size
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocabulary:
            raise LabelError(
                f"input_ids range from {int(input_ids.min())} to {int(input_ids.max())}; "
                f"expected ids in [0, {vocabulary})"
            )
        hidden = self.model.hidden(input_ids, attention_mask, pixel_values, image_grid_thw)
        return at_least_float32(self.head(hidden))

    def prefill(self, batch: Batch) -> Prefilled:
        """Prompts run once: generate, generate_ids and likelihoods of candidate answers go on from there."""
        return prefill(self.model, batch)

    def generate_ids(
        self, batch: Batch, max_new_tokens: int = 64, prefilled: Prefilled | None = None
    ) -> torch.Tensor:
        """Greedy ids after each prompt, [B, <= max_new_tokens]; a sequence ends with its stop id, then pad ids.

        prefilled   what `prefill` gave for this batch; None: the prompts are run here
        """
        return greedy(
            self.model, batch, max_new_tokens, self.generation, self.tokenizer.pad, prefilled
        )

    def generate(
        self, batch: Batch, max_new_tokens: int = 64, prefilled: Prefilled | None = None
    ) -> list[str]:
        """Greedy text after each prompt, special tokens and surrounding blanks left out. prefilled: see generate_ids."""
        return [
            self.tokenizer.text(row.tolist()).strip()
            for row in self.generate_ids(batch, max_new_tokens, prefilled)
        ]

    def checkpoint_layers(self, on: bool = True) -> None:
        """Whether training keeps only each layer's input and computes the rest again in backward: less memory, equal numbers."""
        for module in self.model.modules():
            if hasattr(module, "checkpointing"):
                module.checkpointing = on

    def add_lora(self, rank: int = 8, alpha: float = 32, targets=None, seed: int = 0) -> list[str]:
        """Freeze the weights and add adapters to `targets` (None: every linear layer but the head); returns their names."""
        return lora.add(self.model, rank, alpha, targets, seed)

    def merge_lora(self) -> None:
        """Add the adapters into the weights and remove them."""
        lora.merge(self.model)

    def save_adapter(self, directory) -> None:
        """Write the adapters in PEFT's format."""
        peft_format.save(self.model, self.family.name, directory, str(self.directory))

    def load_adapter(self, directory) -> list[str]:
        """Put the adapters of a PEFT directory on the model; returns the adapted layers' names. Frozen until trained."""
        names = peft_format.load(self.model, self.family.name, directory)
        self.model.requires_grad_(False)
        return names

    @contextmanager
    def adapters_off(self):
        """Within the block the model is the one before the adapters: the teacher."""
        with lora.mode(self.model, "off"):
            yield

    def save(self, directory) -> None:
        """Write the model as a directory that `load` and transformers read; adapters are merged into what is written."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.directory.iterdir()):
            if path.suffix in (".json", ".jinja") and path.name not in ("config.json", INDEX):
                write_bytes(directory / path.name, path.read_bytes())
        write_json(
            directory / "config.json",
            {**self.config_json, "dtype": str(self.dtype).removeprefix("torch.")},
        )
        write_weights(
            directory,
            {name: tensor.shape for name, tensor in self.weights().items()},
            self.dtype,
            lambda name: lora.merged_weight(self.model, name),
        )


def load(path, dtype: str = "float32", device: str = "cpu", template: str = "") -> VLM:
    """The model of an HF-format directory (config.json, tokenizer.json, safetensors), in `dtype` on `device`.

    template  one of data/prompts.py's TEMPLATES by name; "": the one that the directory asks for
    raises    UserError that names the file and what is wrong with it
    """
    vlm = VLM(path, dtype_of(dtype), device_of(device), template)
    load_weights(vlm.weights(), vlm.directory, vlm.family.name, vlm.tied())
    return vlm


def load_without_weights(path, dtype: str = "float32", template: str = "") -> VLM:
    """The model of a directory as `load` gives it, but without values: nothing of its weights is read but their headers.

    raises    as `load`, so that what is wrong with a model is known before anything is computed
    """
    vlm = VLM(path, dtype_of(dtype), torch.device("meta"), template)
    fitting_weights(vlm.weights(), vlm.directory, vlm.family.name, vlm.tied())
    return vlm
