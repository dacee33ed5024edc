"""A directory's chat template is compared with ours as rendered text; an unknown one is refused.

Which of several files counts is the order of the reference library, tested beside it in
test_tokenizer_differential.py.
"""

import json

import pytest

from clear_ref.common.errors import UserError
from clear_ref.data.chat_templates import choose_template
from clear_ref.data.templates import TEMPLATES
from clear_ref.data.tokens import Tokenizer
from tests.helpers import tiny_tokenizers
from tests.helpers.tiny_tokenizers import CHATML, KINDS, LLAVA, MISTRAL, QWEN2, QWEN2_5, files_of

OWN = {
    "llava": ("llava", False),
    "llama-2": ("llama-2", True),
    "llama-first": ("llama-2", True),
    "llama-3": ("llama-3.1", True),
    "mistral": ("inst", True),
    "mistral-v0.3": ("mistral-v0.3", True),
    "qwen2": ("qwen2.5", False),
    "smollm2": ("smollm2", False),
    "qwen2-vl": ("qwen2-vl", False),
    "qwen2.5-vl": ("qwen2-vl", False),
}


def chosen(directory, kind, files=None, name=""):
    """The template of a directory of one kind; files: {file: content} to change."""
    content = {**files_of(kind), **(files or {})}
    tiny_tokenizers.write(directory, content)
    model_type = content["config.json"]["model_type"]
    sees_pictures = model_type == "llava" or model_type.endswith("_vl")
    tokenizer = Tokenizer(directory, content["config.json"], sees_pictures)
    return choose_template(directory, model_type, tokenizer, name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_of_a_directory_is_the_one_that_renders_alike(tmp_path, kind):
    found = chosen(tmp_path, kind)
    assert (found.name, found.bos_written) == OWN[kind]


@pytest.mark.parametrize(
    "kind, expected",
    [("llava", "llava"), ("llama-2", "inst"), ("mistral", "inst"), ("qwen2-vl", "qwen2-vl")],
)
def test_without_a_chat_template_it_is_that_of_the_model_type_and_a_warning_says_so(
    tmp_path, kind, expected
):
    config = {**files_of(kind)["tokenizer_config.json"]}
    config.pop("chat_template", None)
    files = {"tokenizer_config.json": config, "chat_template.json": None}
    with pytest.warns(UserWarning, match=f"holds no chat template: {expected} is used; if the"):
        assert chosen(tmp_path, kind, files).name == expected


def test_a_name_goes_before_the_directorys_own_template(tmp_path):
    assert chosen(tmp_path, "llava", {"chat_template.json": "{}"}, "vicuna").name == "vicuna"
    with pytest.raises(UserError, match="--template is 'gemma'; expected one of llava-end"):
        chosen(tmp_path, "llava", name="gemma")


SYSTEM = "You see pictures. " + LLAVA
BEHIND = LLAVA.replace(
    LLAVA[LLAVA.index("{% for c in m['content'] |") : LLAVA.index("{% for c in m['content'] if")],
    "",
).replace(
    "{% endfor %}{% if add", "{% if m.role == 'user' %}<image>\n{% endif %}{% endfor %}{% if add"
)


@pytest.mark.parametrize(
    "kind, text, difference",
    [
        # A system sentence shares the word ASSISTANT: with llava.
        ("llava", SYSTEM, r"it writes 'You see pictures"),
        # The picture behind the question.
        ("llava", BEHIND, r"it writes 'USER: Who "),
        # Words of a template that is never called.
        ("llava", "{# ASSISTANT: #}{{ messages[0].role }}", r"it writes 'user' where the nearest"),
        # Another system sentence.
        (
            "qwen2",
            CHATML.replace("SYSTEM", "You are a helpful assistant. Be brief."),
            r"it writes 'assistant\. Be brief",
        ),
        # No system turn.
        (
            "qwen2",
            QWEN2[: QWEN2.index("{% if loop.first")] + QWEN2[QWEN2.index("<|im_start|>{{") :],
            r"it writes 'im_start\|>user",
        ),
        # One blank less than Mistral v0.2's.
        ("mistral", MISTRAL.replace("' [/INST]'", "'[/INST]'"), r"\[/INST\]"),
        # The answer is left out.
        ("mistral", MISTRAL.replace("m['content'] + eos_token", "eos_token"), r"is none of ours"),
        # A template that refuses the conversation, and one outside of the subset.
        (
            "qwen2",
            "{{ raise_exception('no') }}",
            r"not known here \(it raises the exception 'no'\)",
        ),
        ("qwen2", "{{ strftime_now('%Y') }}", r"not known here \(it writes today's date\)"),
        ("qwen2", "{% macro f() %}{% endmacro %}", r"the statement 'macro' is not known"),
        ("qwen2", "{{ messages | pprint }}", r"the filter 'pprint' is not known"),
    ],
)
def test_a_template_that_says_something_else_is_refused_with_the_way_out(
    tmp_path, kind, text, difference
):
    config = {**files_of(kind)["tokenizer_config.json"]}
    config.pop("chat_template", None)
    files = {
        "tokenizer_config.json": config,
        "chat_template.json": None,
        "chat_template.jinja": text,
    }
    with pytest.raises(UserError, match=f"{difference}.*name the one to use with --template"):
        chosen(tmp_path, kind, files)


def test_qwen2s_sentence_under_qwen2_and_mistrals_first_template_are_known(tmp_path):
    """Mistral v0.1's first template has a blank behind the end token, v0.2's has none."""
    for folder, kind, text, expected in (
        ("a", "qwen2", QWEN2, "qwen2"),
        ("b", "mistral", MISTRAL.replace("+ eos_token", "+ eos_token + ' '"), "mistral-v0.1"),
        ("c", "qwen2", QWEN2_5, "qwen2.5"),
    ):
        files = {"chat_template.jinja": text}
        assert chosen(tmp_path / folder, kind, files).name == expected


def test_a_template_that_is_known_but_whose_bos_is_missing_is_refused(tmp_path):
    """A tokenizer adds no BOS to a chat, so a chat template without it makes prompts without it."""
    text = MISTRAL.replace("{{ bos_token }}", "")
    with pytest.raises(
        UserError, match="this chat template is inst, and .*<s>. its prompt has no BOS token"
    ):
        chosen(tmp_path, "mistral", {"chat_template.jinja": text})
    files = files_of("llava")
    files["tokenizer.json"]["post_processor"] = None
    with pytest.raises(UserError, match="this chat template is llava, and .* has no BOS token"):
        chosen(tmp_path / "llava", "llava", files)


def test_llama_3s_date_is_fixed_and_open_unlearnings_is_its_own():
    """The texts are those of the published template, with date_string given."""
    end = (
        "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    start = (
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: "
    )
    assert TEMPLATES["llama-3.1"].prompt(" Who?\n", False) == start + "26 Jul 2024\n\n" + end
    assert TEMPLATES["open-unlearning"].prompt("Who?", False) == (
        start + "10 Apr 2025\n\nYou are a helpful assistant." + end
    )
    assert TEMPLATES["llama-3"].prompt("Who?", False) == end.removeprefix("<|eot_id|>")
    assert TEMPLATES["llama-3.1"].answer(" Hina. ") == "Hina.<|eot_id|>"


def test_several_templates_need_one_that_is_called_default(tmp_path):
    one = {"name": "tool_use", "template": "x"}
    files = files_of("qwen2")
    config = files["tokenizer_config.json"]
    config["chat_template"] = [one, {"name": "default", "template": QWEN2_5}]
    assert chosen(tmp_path / "a", "qwen2", files).name == "qwen2.5"
    config["chat_template"] = [one]
    with pytest.raises(UserError, match="has several chat templates and none is called default"):
        chosen(tmp_path / "b", "qwen2", files)


def test_a_processors_own_template_goes_before_the_others(tmp_path):
    """The order: processor_config.json, chat_template.json, chat_template.jinja."""
    files = files_of("llava")
    files["chat_template.jinja"] = "something else"
    assert chosen(tmp_path / "a", "llava", files).name == "llava"
    files["processor_config.json"] |= {"chat_template": SYSTEM}
    with pytest.raises(UserError, match=r"processor_config\.json: .*it writes 'You see pictures"):
        chosen(tmp_path / "b", "llava", files)
    files = files_of("llava") | {"additional_chat_templates/tool_use.jinja": "x"}
    with pytest.raises(UserError, match="stands beside additional_chat_templates"):
        chosen(tmp_path / "c", "llava", files)


def test_a_list_without_names_has_no_default(tmp_path):
    files = files_of("qwen2")
    files["tokenizer_config.json"]["chat_template"] = ["x", {"template": "y"}]
    with pytest.raises(UserError, match="none is called default"):
        chosen(tmp_path, "qwen2", files)


def test_a_file_that_holds_no_text_is_refused(tmp_path):
    files = {"chat_template.json": json.dumps({"chat_template": 3})}
    with pytest.raises(UserError, match="chat_template is 3; expected a text"):
        chosen(tmp_path, "llava", files)
