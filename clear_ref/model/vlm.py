"""VLM: weights, tokenizer, chat template and image processor of one model directory."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from clear_ref.common import distributed
from clear_ref.common.devices import device_of, dtype_of
from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.common.files import PathName, read_json, write_json
from clear_ref.data.batches import Batch, collate
from clear_ref.data.chat_templates import choose_template
from clear_ref.data.images import Picture
from clear_ref.data.label_masks import MASKS
from clear_ref.data.picture_memory import PictureMemory
from clear_ref.data.records import Record
from clear_ref.data.tokens import Tokenizer

from . import lora, peft_format
from .base_model import Model
from .config_values import with_dtype
from .families import family
from .generate import Prefilled, ended_texts, greedy, prefill
from .generation_config import generation
from .language import Checkpointable, at_least_float32
from .model_directory import HISTORY, check_adapter_beside, check_target, copy_files
from .sharded import is_shared_out, share_out_layers
from .weights import StoredTensor, fitting_weights, read_weights
from .write_weights import write_weights


class VLM:
    """A vision-language model, or a language model, of a directory. `load` makes one.

    model      the nn.Module
    tokenizer  template, images: how text and pictures become its input
    """

    def __init__(
        self,
        directory: PathName,
        dtype: torch.dtype,
        device: torch.device,
        chosen_template: str = "",
    ) -> None:
        """The model with memory for its weights, which are not yet filled."""
        self.directory = Path(directory)
        where = self.directory / "config.json"
        self.config_json = read_json(where)
        self.family = family(self.config_json, where)
        self.config = self.family.config(self.config_json, where)
        self.text_config = self.config.text
        sees_pictures = self.family.sees_pictures
        self.tokenizer = Tokenizer(self.directory, self.config_json, sees_pictures)
        self.template = choose_template(
            self.directory, self.family.name, self.tokenizer, chosen_template
        )
        self.tokenizer.check(self.template)
        self.images = None
        if self.family.images is not None:
            self.images = self.family.images(self.directory, self.config)
            self._pictures = PictureMemory(self.images)
        vocabulary = self.text_config.vocab_size
        self.tokenizer.fit(vocabulary)
        self.tokenizer.prompt(self.template, "", 0)  # every token of the template has a row
        with torch.device("meta"):
            model = self.family.model(self.config)
        self._check_image_token(model.image_token_id)
        self.generation = generation(self.directory, self.config_json, vocabulary, self.tokenizer)
        self.model: Model = model.to(dtype).eval().requires_grad_(False)
        if device.type != "meta":
            self.allocate(device)

    def allocate(self, device: torch.device) -> None:
        """Give the weights memory on a device; they are not yet filled."""
        self.model = self.model.to_empty(device=device)

    def _check_image_token(self, image_token_id: int | None) -> None:
        """UserError unless config.json and the tokenizer have the same image token."""
        if self.template.with_image is None:
            return
        token_id = self.tokenizer.id_of(self.template.image)
        if token_id != image_token_id:
            raise UserError(
                f"{self.directory}: config.json has image token {image_token_id}, the tokenizer's "
                f"{self.template.image} is {token_id}; the tokenizer belongs to another model"
            )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, in which the model computes."""
        return next(self.model.parameters()).dtype

    @property
    def is_shared_out(self) -> bool:
        """True if the decoder layers are shared out over processes: all must compute together."""
        return is_shared_out(self.model.decoder.layers[0])

    def weights(self) -> dict[str, Tensor]:
        """The base weights by checkpoint name, without adapters."""
        return {
            name: tensor
            for name, tensor in self.model.named_parameters()
            if ".adapter." not in name
        }

    def tied(self) -> dict[str, str]:
        """{the head's name: the embedding's name} if the two are one tensor; otherwise {}."""
        if not self.text_config.tie_word_embeddings:
            return {}
        decoder = next(
            name for name, module in self.model.named_modules() if module is self.model.decoder
        )
        return {f"{decoder.removesuffix('model')}lm_head.weight": f"{decoder}.embed_tokens.weight"}

    def encode(self, records: Iterable[Record], mask: str = "answer") -> Batch:
        """One batch of records, padded on the left. A record without an answer is a prompt only.

        mask    which tokens have labels. answer: the answer's tokens. released: all but the first
                n, where n is the number of the prompt's tokens with its picture counted as one:
                most of the picture, the question and the answer
        source  released: mm/dataset.py:39-51, 315-339
        """
        if mask not in MASKS:
            raise UserError(f"label mask is {mask!r}; expected one of {', '.join(MASKS)}")
        sequences: list[list[int]] = []
        label_starts: list[int] = []
        pictures: list[Picture] = []
        for record in records:
            picture = self._picture_of(record)
            n_image_tokens = 0
            if picture is not None:
                pictures.append(picture)
                n_image_tokens = picture.n_tokens
            sequence = self.tokenizer.prompt(self.template, record.question, n_image_tokens)
            label_start = len(sequence)
            if record.answer is not None:
                # The tokenizer may merge the prompt's last tokens with the answer's first.
                n_merged, answer = self.tokenizer.answer(self.template, record.answer)
                sequence = sequence[: len(sequence) - n_merged] + answer
                if mask == "released":
                    label_start -= max(n_image_tokens - 1, 0)
            self.tokenizer.check_length(len(sequence))
            sequences.append(sequence)
            label_starts.append(label_start)
        if not sequences:
            raise UserError("there is no record to encode; expected at least one")
        batch = collate(sequences, label_starts, pictures, self.tokenizer.pad)
        return batch.to(self.device, self.dtype)

    def _picture_of(self, record: Record) -> Picture | None:
        """The record's picture as the model takes it; None for a record without one."""
        if record.image is None:
            return None
        if self.images is None:
            raise UserError(
                f"record {record.question!r} has a picture, and {self.directory} holds a language "
                "model; expected text alone (--modality text)"
            )
        return self._pictures(record.image, f"record {record.question!r}")

    def hidden(self, batch: Batch, layer: int | None = None, start: int = 0) -> Tensor:
        """[B, T - start, D]: normed hidden states from position `start` on.

        layer  a decoder layer (0-based): its output instead, without the final norm
        """
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
        """UserError unless `layer` is None or the number of a decoder layer."""
        n_layers = self.text_config.num_hidden_layers
        if layer is not None and not 0 <= layer < n_layers:
            raise UserError(
                f"decoder layer is {layer}; the model has layers 0 to {n_layers - 1}, "
                "name one of them"
            )

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D], in the model's dtype."""
        return self.model.head(hidden)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, T, V] in float32 (float64 stays float64). image_grid_thw: see Batch.

        raises  LabelError for an id outside the vocabulary; ShapeError if tensors disagree
        """
        if input_ids.dim() != 2 or input_ids.shape != attention_mask.shape:
            raise ShapeError(
                f"input_ids are {list(input_ids.shape)}, attention_mask "
                f"{list(attention_mask.shape)}; expected the same [B, T]"
            )
        vocabulary = self.text_config.vocab_size
        if input_ids.numel():
            least = int(input_ids.min())
            most = int(input_ids.max())
            if least < 0 or most >= vocabulary:
                raise LabelError(
                    f"input_ids range from {least} to {most}; expected ids in [0, {vocabulary})"
                )
        hidden = self.model.hidden(input_ids, attention_mask, pixel_values, image_grid_thw)
        return at_least_float32(self.head(hidden))

    def prefill(self, batch: Batch) -> Prefilled:
        """The decoder's state after a batch of prompts.

        generate, generate_ids and the likelihoods of candidate answers continue from it.
        """
        return prefill(self.model, batch)

    def generate_ids(
        self, batch: Batch, max_new_tokens: int = 64, prefilled: Prefilled | None = None
    ) -> Tensor:
        """Greedy ids after each prompt, [B, <= max_new_tokens].

        A sequence ends with its stop id; pad ids follow.
        prefilled  the result of `prefill` for this batch; None: computed here
        """
        return greedy(
            self.model, batch, max_new_tokens, self.generation, self.tokenizer.pad, prefilled
        )

    def generate(
        self, batch: Batch, max_new_tokens: int = 64, prefilled: Prefilled | None = None
    ) -> list[str]:
        """Greedy text after each prompt, without special tokens and surrounding blanks.

        prefilled  see generate_ids
        """
        ids = self.generate_ids(batch, max_new_tokens, prefilled)
        rows = ended_texts(ids, self.generation.stop_ids)
        return [self.tokenizer.text(row).strip() for row in rows]

    def checkpoint_layers(self, on: bool = True) -> None:
        """Switch checkpointing on or off.

        With it, training keeps only each layer's input and computes the rest again in backward:
        less memory, equal numbers.
        """
        for module in self.model.modules():
            if isinstance(module, Checkpointable):
                module.checkpointing = on

    def add_lora(
        self, rank: int = 8, alpha: float = 32, targets: lora.Targets = None, seed: int = 0
    ) -> list[str]:
        """Freeze the weights and add adapters; returns the adapted layers' names.

        targets  see lora.add; None: every linear layer but the head
        """
        return lora.add(self.model, rank, alpha, targets, seed)

    def merge_lora(self) -> None:
        """Add the adapters to the weights and remove them."""
        lora.merge(self.model)

    def save_adapter(self, directory: PathName) -> None:
        """Write the adapters in PEFT's format."""
        peft_format.save(self.model, self.family.name, directory, str(self.directory))

    def load_adapter(self, directory: PathName) -> list[str]:
        """Attach the adapters of a PEFT directory; returns the adapted layers' names.

        The adapters are frozen, as the weights are.
        """
        names = peft_format.load(self.model, self.family.name, directory)
        self.model.requires_grad_(False)
        return names

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Inside the block the model computes without its adapters: the teacher."""
        with lora.mode(self.model, "off"):
            yield

    def save(self, directory: PathName) -> None:
        """Write the model as a directory that `load` and transformers read.

        Adapters are merged into the written weights; the model itself is unchanged. Files for text
        and pictures are copied (model_directory.py). The weights, which may fill the disk, are
        written first: if that fails, everything in the directory is as it was.
        Under torchrun the first process writes.
        raises  UserError if the directory cannot hold a model; then nothing is written
        """
        if not distributed.is_first():
            return
        directory = Path(directory)
        check_target(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_weights(
            directory,
            {name: tensor.shape for name, tensor in self.weights().items()},
            self.dtype,
            lambda name: lora.merged_weight(self.model, name),
        )
        copy_files(self.directory, directory)
        (directory / HISTORY).unlink(missing_ok=True)
        dtype = str(self.dtype).removeprefix("torch.")
        write_json(directory / "config.json", with_dtype(self.config_json, dtype))


def load(
    path: PathName,
    dtype: str = "float32",
    device: str = "cpu",
    template: str = "",
    adapter: PathName = "",
    shard: bool = False,
) -> VLM:
    """The model of an HF-format directory (config.json, tokenizer.json, safetensors).

    dtype     of the weights, in which the model computes: float32, bfloat16, float16 or float64
              (transformers 5 takes the one in config.json)
    device    cpu or cuda
    template  the name of a template in data/templates.py; "": the one that the directory asks for
    adapter   a PEFT directory whose adapter is attached, which may be the model's own; "": none
    shard     share out the decoder layers over the processes of torchrun; in one process: nothing
    raises    UserError that names the file and the problem
    """
    wanted = device_of(device)
    # Before memory is taken for the sizes in config.json, the weights are known to have them.
    vlm, stored = _checked(path, dtype, template, adapter)
    if shard and distributed.size() > 1:
        share_out_layers(vlm.model, wanted.type)
    vlm.allocate(wanted)
    read_weights(vlm.weights(), stored)
    if adapter:
        vlm.load_adapter(adapter)
    return vlm


def load_without_weights(
    path: PathName, dtype: str = "float32", template: str = "", adapter: PathName = ""
) -> VLM:
    """The model that `load` returns, but without values: only the weights' headers are read.

    raises  as `load`, so that a problem of a model is known before anything is computed
    """
    vlm, _ = _checked(path, dtype, template, adapter)
    if adapter:
        vlm.load_adapter(adapter)
    return vlm


def _checked(
    path: PathName, dtype: str, template: str, adapter: PathName
) -> tuple[VLM, dict[str, StoredTensor]]:
    """(the model without memory for its weights, where each weight is stored), checked to fit."""
    check_adapter_beside(path, adapter)
    vlm = VLM(path, dtype_of(dtype), torch.device("meta"), template)
    return vlm, fitting_weights(vlm.weights(), vlm.directory, vlm.family.name, vlm.tied())
