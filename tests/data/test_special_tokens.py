"""Special tokens, tokenizer classes and ids beyond the embedding, by hand on tiny tokenizers."""

import pytest

from clear_ref.common.errors import UserError
from clear_ref.data.templates import TEMPLATES
from clear_ref.data.tokens import Tokenizer
from tests.helpers import tiny_tokenizers


def tokenizer_of(directory, kind, change=None, sees_pictures=False):
    """The tokenizer of a tiny directory; change: (files) -> None edits them."""
    files = tiny_tokenizers.files_of(kind)
    if change:
        change(files)
    tiny_tokenizers.write(directory, files)
    return Tokenizer(directory, files["config.json"], sees_pictures)


def test_an_eos_that_only_tokenizer_config_names_is_left_out_of_decoded_text(tmp_path):
    """Without the name the same id is read as text."""

    def plain(files):
        for token in files["tokenizer.json"]["added_tokens"]:
            token["special"] = token["content"] != "<|eot_id|>"

    def unnamed(files):
        plain(files)
        files["tokenizer_config.json"]["eos_token"] = None

    tokenizer = tokenizer_of(tmp_path / "a", "llama-3", plain)
    ids = [*tokenizer.ids("who"), tokenizer.id_of("<|eot_id|>")]
    assert tokenizer.eos == ids[-1] and tokenizer.text(ids) == "who"
    assert tokenizer_of(tmp_path / "b", "llama-3", unnamed).text(ids) == "who<|eot_id|>"


def test_a_token_of_added_tokens_json_alone_is_one_token_that_decodes_as_text(tmp_path):
    def add(files):
        files["added_tokens.json"] = {"<new>": 9999}

    before = tokenizer_of(tmp_path / "a", "llama-2")
    after = tokenizer_of(tmp_path / "b", "llama-2", add)
    # The library gives the next free id, whatever the file says; so does the reference.
    assert after.id_of("<new>") == before.size and after.size == before.size + 1
    assert after.ids("a<new>")[-1] == before.size and len(before.ids("a<new>")) > 3
    assert after.text([before.size]) == "<new>"


def test_llama_tokenizer_under_llama_replaces_the_normaliser_and_under_llava_does_not(tmp_path):
    """Text behind a special token: the normaliser puts a blank before it, the class does not."""
    llama = tokenizer_of(tmp_path / "a", "llama-2")
    llava = tokenizer_of(tmp_path / "b", "llava", sees_pictures=True)
    blank_a, a = llama.id_of("▁a"), llama.id_of("a")
    assert llama.ids("a</s>a") == [blank_a, 2, a]
    assert llava.ids("a</s>a") == [blank_a, 2, blank_a]

    def by_file(files):
        files["tokenizer_config.json"]["tokenizer_class"] = "PreTrainedTokenizerFast"

    def with_legacy(files):
        files["tokenizer_config.json"]["legacy"] = True

    assert tokenizer_of(tmp_path / "c", "llama-2", by_file).ids("a</s>a") == [blank_a, 2, blank_a]
    assert tokenizer_of(tmp_path / "d", "llama-2", with_legacy).ids("a</s>a") == [
        blank_a,
        2,
        blank_a,
    ]


def test_qwen2_has_its_own_words_whatever_the_file_says(tmp_path):
    """Every digit is a word and text is put into Unicode form C; Qwen2-VL's file decides itself."""

    def other(files):
        files["tokenizer.json"]["normalizer"] = {"type": "Lowercase"}
        files["tokenizer_config.json"]["tokenizer_class"] = "PreTrainedTokenizerFast"

    text = tokenizer_of(tmp_path / "a", "qwen2", other)
    assert text.ids("A") == [text.id_of("A")]
    vision = tokenizer_of(tmp_path / "b", "qwen2-vl", other, sees_pictures=True)
    assert vision.ids("A") == [vision.id_of("a")]


def test_an_unknown_class_is_refused_with_the_way_out(tmp_path):
    def change(files):
        files["tokenizer_config.json"]["tokenizer_class"] = "BertTokenizer"

    with pytest.raises(UserError, match="tokenizer_class is 'BertTokenizer'.*expected one of Ll"):
        tokenizer_of(tmp_path / "a", "llama-2", change)
    assert tokenizer_of(tmp_path / "b", "mistral", change).ids("a")


def test_an_id_beyond_the_embedding_is_refused_where_a_text_uses_it(tmp_path):
    def add(files):
        files["tokenizer_config.json"]["pad_token"] = "<padding>"
        files["added_tokens.json"] = {"<new>": 9999}

    tokenizer = tokenizer_of(tmp_path, "llama-2", add)
    n_embeddings = tokenizer.size - 2
    assert tokenizer.pad == n_embeddings + 1
    tokenizer.fit(n_embeddings)
    assert tokenizer.pad == 0  # a row that exists; padding is masked
    assert tokenizer.ids("who is")
    with pytest.raises(UserError, match=f"'<new>' with id {n_embeddings}, and the embedding has"):
        tokenizer.ids("who <new>")


def test_a_prompt_that_the_references_processor_would_cut_is_refused(tmp_path):
    """A language model's tokenizer cuts nothing."""

    def change(files):
        files["tokenizer.json"]["truncation"] = {
            "direction": "Right",
            "max_length": 9,
            "strategy": "LongestFirst",
            "stride": 0,
        }

    tokenizer = tokenizer_of(tmp_path / "a", "llava", change, sees_pictures=True)
    assert tokenizer.most_tokens == 9
    prompt = tokenizer.prompt(TEMPLATES["llava"], "Who is this?", 0)
    with pytest.raises(UserError, match=f"has {len(prompt)} tokens, and max_length is 9"):
        tokenizer.check_length(len(prompt))
    tokenizer = tokenizer_of(tmp_path / "b", "llama-2", change)
    assert tokenizer.most_tokens is None and len(tokenizer.ids("who is the name " * 9)) > 9


def test_keys_that_change_ids_or_texts_are_refused(tmp_path):
    for number, (key, value, message) in enumerate(
        (
            ("split_special_tokens", True, "split_special_tokens is True; expected False or None"),
            ("fix_mistral_regex", True, "fix_mistral_regex is True; expected False or None"),
            ("auto_map", {"AutoTokenizer": ["a.B", None]}, "no program is run"),
            ("truncation", True, "truncation is True; expected False or None"),
            ("size", {"shortest_edge": 28}, "size is .*; expected it absent"),
            ("eos_token", [1], "eos_token is .*; expected one of the tokenizer's tokens"),
            ("extra_special_tokens", "abc", "extra_special_tokens is 'abc'; expected a list"),
            ("extra_special_tokens", [3], "extra_special_tokens is 3; expected one of"),
            ("tokenizer_class", 3, "tokenizer_class is 3; expected a name"),
            ("max_length", "9", "max_length is '9'; expected a number of tokens"),
            ("added_tokens_decoder", {"x": "y"}, "added_tokens_decoder x is 'y'; expected an id"),
        )
    ):

        def change(files, key=key, value=value):
            files["tokenizer_config.json"][key] = value

        with pytest.raises(UserError, match=message):
            tokenizer_of(tmp_path / str(number), "llava", change, sees_pictures=True)


HALF = "\ud800"  # UTF-8 has no form for it; the reference library raises UnicodeEncodeError
CONTENT = {"content": HALF, "special": True}


@pytest.mark.parametrize(
    "name, values, key",
    [
        ("tokenizer_config.json", {"eos_token": HALF}, "eos_token"),
        ("tokenizer_config.json", {"image_token": "a" + HALF}, "image_token"),
        ("tokenizer_config.json", {"chat_template": HALF}, "chat_template"),
        ("tokenizer_config.json", {"pad_token": CONTENT}, r"pad_token\.content"),
        ("tokenizer_config.json", {"extra_special_tokens": [HALF]}, r"extra_special_tokens\[0\]"),
        ("tokenizer_config.json", {"extra_special_tokens": {"x": HALF}}, r"extra_.*tokens\.x"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": CONTENT}}, r"added_.*9\.content"),
        ("special_tokens_map.json", {"eos_token": CONTENT}, r"eos_token\.content"),
        ("added_tokens.json", {HALF: 9}, "a key of the object"),
        ("tokenizer.json", {"added_tokens": [{"id": 9, **CONTENT}]}, "not a tokenizer file"),
    ],
)
def test_a_token_with_a_lone_surrogate_is_refused_with_its_file_and_key(
    tmp_path, name, values, key
):
    def change(files):
        files[name] = {**files.get(name, {}), **values}

    with pytest.raises(UserError, match=rf"^[^\n]*/{name}: {key}[^\n]*$"):
        tokenizer_of(tmp_path, "llama-2", change)


def test_a_special_tokens_map_counts_only_without_added_tokens_decoder(tmp_path):
    def change(files):
        files["special_tokens_map.json"] = {"eos_token": "<s>"}

    def both(files):
        change(files)
        files["tokenizer_config.json"]["added_tokens_decoder"] = {}

    def unknown(files):
        files["special_tokens_map.json"] = {"model_max_length": 3}

    assert tokenizer_of(tmp_path / "a", "llama-2", change).eos == 1
    assert tokenizer_of(tmp_path / "b", "llama-2", both).eos == 2
    with pytest.raises(UserError, match="model_max_length is 3, a key that is not known here"):
        tokenizer_of(tmp_path / "c", "llama-2", unknown)


def test_a_token_of_the_template_must_be_one_token(tmp_path):
    """[INST] in the vocabulary alone is split by the tokenizer."""

    def change(files):
        file = files["tokenizer.json"]
        ids = {token["content"]: token["id"] for token in file["added_tokens"]}
        for text in ("[INST]", "[/INST]"):
            file["model"]["vocab"][text] = ids[text]
        file["added_tokens"] = file["added_tokens"][:3]

    tokenizer = tokenizer_of(tmp_path, "mistral-v0.3", change)
    with pytest.raises(UserError, match=r"'\[INST\]' is in the vocabulary, and a text with it is"):
        tokenizer.check(TEMPLATES["mistral-v0.3"])
