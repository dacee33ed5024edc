"""Tokenizer files with one or two keys changed, read by this package and by transformers.

Compared: the ids of conversations with and without an answer, of plain texts, and decoded texts.

    $ python -m tests.helpers.differential_tokenizers --cases 5000 --seed 1
"""

import argparse
import random
import tempfile
from pathlib import Path

from PIL import Image

from clear_ref.data.chat_templates import chat_template, choose_template
from clear_ref.data.tokens import Tokenizer
from tests.helpers import tiny_tokenizers as tiny
from tests.helpers.differential import Case, compare
from tests.helpers.tokenizer_changes import CHANGES

QUESTIONS = ("Who is this?", " the name:\n\nis 12345? ", "éa  <s></s> 'who'")
ANSWERS = ("the name. ", "[a] Who")
TEXTS = (
    "who is this the name",
    " USER: ASSISTANT:",
    "é ｆ 123</s>who<new>",
    "<boi>a<|im_end|> \n\n",
    "A\n",
)
PICTURE = Image.new("RGB", (28, 28), (90, 120, 30))
DATE = "26 Jul 2024"


def sees_pictures(files):
    """True if the directory is a vision-language model's."""
    model_type = files["config.json"]["model_type"]
    return model_type == "llava" or model_type.endswith("_vl")


def cases(n, seed):
    """n cases: a kind of tokenizer in turn, one change, and in every second case another one."""
    rng = random.Random(seed)
    kinds = list(tiny.KINDS)
    for number in range(n):
        kind = kinds[number % len(kinds)]
        chosen = rng.sample(list(CHANGES), 2)[: 1 + number // len(kinds) % 2]
        files = tiny.files_of(kind)
        names, keys = [kind], []
        for name in chosen:
            values = CHANGES[name](files, rng)
            names.append(f"{name}={values!r:.90}")
            keys += name.split("/")[-1].split(",")
        yield Case(" ".join(names), tuple(keys), files)


def conversations(as_parts):
    """[(question, answer or None)]."""
    return [(question, None) for question in QUESTIONS] + [
        (QUESTIONS[i % 3], answer) for i, answer in enumerate(ANSWERS)
    ]


def ours(files):
    """This package's ids and texts."""
    with tempfile.TemporaryDirectory() as folder:
        directory = tiny.write(Path(folder), files)
        pictures = sees_pictures(files)
        tokenizer = Tokenizer(directory, files["config.json"], pictures)
        chats = None
        if chat_template(directory, pictures) is not None:
            model_type = files["config.json"]["model_type"]
            template = choose_template(directory, model_type, tokenizer)
            tokenizer.check(template)
            chats = [_chat(tokenizer, template, *turns) for turns in conversations(pictures)]
            if pictures:
                n = 4 if model_type == "llava" else 1
                chats.append(_chat(tokenizer, template, QUESTIONS[0], ANSWERS[0], n))
        return {
            "chats": chats,
            "plain": [tokenizer.ids(text) for text in TEXTS],
            "decoded": [tokenizer.text(ids) for ids in _id_lists(tokenizer.size)],
            "named": dict(sorted(tokenizer.named.items())),
            "ids": [tokenizer.bos, tokenizer.eos],
        }


def _chat(tokenizer, template, question, answer, n_image_tokens=0):
    ids = tokenizer.prompt(template, question, n_image_tokens)
    if answer is not None:
        merged, more = tokenizer.answer(template, answer)
        ids = ids[: len(ids) - merged] + more
    tokenizer.check_length(len(ids))
    return ids


def _id_lists(size):
    """Every id between two plain ones, and a few texts of ids."""
    return [[10, number, 11] for number in range(size)] + [list(range(size - 60, size))]


def theirs(files):
    """The reference's ids and texts; chats None: the directory has no chat template."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        directory = str(tiny.write(Path(folder), files))
        pictures = sees_pictures(files)
        if pictures:
            processor = _processor(directory, files["config.json"]["model_type"])
            tokenizer = processor.tokenizer
        else:
            processor = tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        chats = None
        if processor.chat_template is not None:
            chats = [_their_chat(processor, pictures, *turns) for turns in conversations(pictures)]
            if pictures:
                chats.append(_their_chat(processor, True, QUESTIONS[0], ANSWERS[0], PICTURE))
        size = max(tokenizer.get_vocab().values()) + 1
        return {
            "chats": chats,
            "plain": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
            "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in _id_lists(size)],
            "named": dict(sorted(tokenizer.special_tokens_map.items())),
            "ids": [tokenizer.bos_token_id, tokenizer.eos_token_id],
        }


def _processor(directory, model_type):
    """AutoProcessor; Qwen2-VL's needs torchvision for videos: it is put together without them."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.processing_utils import ProcessorMixin

    if model_type == "llava":
        return transformers.AutoProcessor.from_pretrained(directory)
    names = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}
    whole = getattr(transformers, names[model_type])

    class Still(whole):
        def __init__(self, image_processor, tokenizer, chat_template=None):
            for name, text in (("image_token", "<|image_pad|>"), ("video_token", "<|video_pad|>")):
                setattr(self, name, getattr(tokenizer, name, text))
                number = tokenizer.convert_tokens_to_ids(getattr(self, name))
                setattr(self, f"{name}_id", getattr(tokenizer, f"{name}_id", None) or number)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    settings, _ = whole.get_processor_dict(directory)
    images = Qwen2VLImageProcessorPil.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return Still(images, tokenizer, settings.get("chat_template"))


def _their_chat(processor, as_parts, question, answer, picture=None):
    user = {"role": "user", "content": question}
    said = {"role": "assistant", "content": answer}
    if as_parts:
        image = [{"type": "image", "image": picture}] if picture else []
        user["content"] = [*image, {"type": "text", "text": question}]
        said["content"] = [{"type": "text", "text": answer}]
    found = processor.apply_chat_template(
        [user] if answer is None else [user, said],
        add_generation_prompt=answer is None,
        tokenize=True,
        return_dict=True,
        date_string=DATE,
    )["input_ids"]
    return [int(number) for number in (found[0] if isinstance(found[0], list) else found)]


def difference(found, expected):
    """The first part that differs."""
    for part, value in expected.items():
        if part == "chats" and value is None:
            continue
        if found[part] != value:
            pairs = [(value, found[part])]
            if isinstance(value, list) and isinstance(found[part], list):
                pairs = [p for p in zip(value, found[part], strict=False) if p[0] != p[1]]
            return f"{part}: {len(pairs)} differ, the first is {pairs[:1]}, expected first"
    return ""


def main():
    """Run the cases of the command line and print the counts of every kind."""
    import transformers

    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    every = list(cases(arguments.cases, arguments.seed))
    for kind in tiny.KINDS:
        of_kind = [case for case in every if case.name.split()[0] == kind]
        counts = compare(of_kind, ours, theirs, difference)
        print(counts.row(f"tokenizer files, {kind}"))
        for line in counts.different:
            print("   ", line[:700])


if __name__ == "__main__":
    main()
