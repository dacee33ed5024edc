"""Tokenizer files with one or two keys changed: the ids and texts of transformers, or a refusal.

Ten kinds of directories (LLaVA, Llama-2, Llama-3, Mistral, Qwen2, SmolLM2, Qwen2-VL, Qwen2.5-VL)
and every place of a chat template. A longer run: python -m tests.helpers.differential_tokenizers.
"""

import pytest

from clear_ref.data.tokens import Tokenizer
from tests.helpers import differential_tokenizers as run
from tests.helpers.differential import compare

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
pytest.importorskip("jinja2", reason="the parity extra is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_no_change_of_tokenizer_files_gives_other_ids_or_texts():
    transformers.logging.set_verbosity_error()
    counts = compare(run.cases(500, seed=7), run.ours, run.theirs, run.difference)
    assert not counts.different, "\n".join(counts.different)
    assert counts.equal > 300 and 30 < counts.refused < 100, counts.row("tokenizer files")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", run.tiny.KINDS)
def test_ids_of_a_directory_as_it_is_are_those_of_the_reference(kind):
    files = run.tiny.files_of(kind)
    assert run.difference(run.ours(files), run.theirs(files)) == ""


TEXTS = (
    "who is 123",
    "a 123 12 1234, x1 23",
    " 123  who\n\n12",
    "é ｆ x² \N{GRINNING FACE} ½ 'who's",
    "<|im_start|>who 123<|im_end|> 1",
    "",
)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("class_name", ["GPT2Tokenizer", "GPT2TokenizerFast"])
@pytest.mark.parametrize("blank", [None, False, True])
@pytest.mark.parametrize("named", [True, False], ids=["tokens named", "tokens of the class"])
def test_gpt2_tokenizer_under_llama_replaces_the_words_of_the_file(
    tmp_path, class_name, blank, named
):
    """SmolLM2-Instruct: the file's step that makes each digit a word is left out."""
    files = run.tiny.files_of("smollm2")
    config = files["tokenizer_config.json"]
    config["tokenizer_class"] = class_name
    if blank is not None:
        config["add_prefix_space"] = blank
    if not named:
        del config["bos_token"], config["eos_token"]
    directory = run.tiny.write(tmp_path, files)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours = Tokenizer(directory, files["config.json"])
    ids = [ours.ids(text) for text in TEXTS]
    assert ids == [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert [ours.text(each) for each in ids] == [
        theirs.decode(each, skip_special_tokens=True) for each in ids
    ]
    assert ours.named == theirs.special_tokens_map and "unk_token" in ours.named
    assert (ours.id_of("123") in ids[0]) and (ours.bos, ours.eos) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
    )
