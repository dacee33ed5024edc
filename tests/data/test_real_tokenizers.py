"""Prompts and answers in the vocabularies of Llama-2, LLaVA-1.5 and Qwen2-VL.

The tokenizers are not part of this repository: tests that read them skip where they are absent
(tests/helpers/real_data.py). Questions and published counts are in tests/real/.
"""

import gzip
import json
import shutil

import pytest
import tokenizers

from clear_ref.data.templates import TEMPLATES
from clear_ref.data.tokens import Tokenizer
from tests.helpers.real_data import real_data, tofu_rows, tokenizer_data

LLAMA_LOGS = (
    "llama2-7b_full_wd0.01",
    "llama2-7b_retain90_wd0.01",
    "llama2-7b_retain95_wd0.01",
    "llama2-7b_retain99_wd0.01",
)
TASKS = {
    "eval_log.json": "retain_perturbed",
    "eval_log_forget.json": "forget{}_perturbed",
    "eval_real_author_wo_options.json": "real_authors_perturbed",
    "eval_real_world_wo_options.json": "world_facts_perturbed",
}
# 300 retain rows and the log's forget rows with 7 answers each, 217 rows of the Real sets with 5:
# together the 18,620 logged counts.
COMPARED = {
    log: 7 * (300 + n_forget) + 5 * 217
    for log, n_forget in zip(LLAMA_LOGS, (300, 300, 200, 40), strict=True)
}
FORGET = {"full": "10", "retain90": "10", "retain95": "05", "retain99": "01"}


def llama(directory, added=()):
    """The LLaMA tokenizer as in a model directory, with the tokens that LLaVA adds."""
    directory.mkdir(exist_ok=True)
    made = tokenizers.Tokenizer.from_file(str(tokenizer_data("llama", "tokenizer.json")))
    made.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in added])
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    )
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("tokenizers") / "llava", ("<image>", "<pad>"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizers") / "qwen"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_data("qwen", name), directory / name)
    return Tokenizer(directory)


@pytest.mark.parametrize("log", LLAMA_LOGS)
def test_token_counts_of_every_candidate_are_those_of_the_published_logs(log, tmp_path):
    """The number of supervised tokens of every answer, paraphrase and wrong answer.

    They were logged by TOFU's own evaluation of Llama-2-7B.
    """
    tokenizer, inst = llama(tmp_path / "llama"), TEMPLATES["inst"]
    logged = json.loads(gzip.open(real_data("tofu_eval_logs", f"{log}.json.gz")).read())
    compared = 0
    for task, config in TASKS.items():
        found = tofu_rows(config.format(FORGET[log.split("_")[1]]))
        for index, n in logged[task]["num_token_gt"].items():
            row = found[int(index)]
            answers = [
                row["answer"],
                row.get("paraphrased_answer", row["answer"]),
                *row["perturbed_answer"],
            ]
            counts = [
                len(ids) - merged
                for merged, ids in (tokenizer.answer(inst, answer) for answer in answers)
            ]
            expected = [
                n,
                logged[task]["num_token_paraphrased"][index],
                *logged[task]["num_token_perturb"][index],
            ]
            assert counts == expected, (task, index)
            compared += len(counts)
    assert compared == COMPARED[log]


def test_ids_of_a_published_prompt(llava):
    """The ids of one prompt in the output of the benchmark's own notebook (LLaVA-1.5)."""
    case = json.loads(real_data("clear_reference", "known_token_ids.json").read_text())["cases"][0]
    question = case["conversation"][0]["content"][0]["text"]
    assert llava.prompt(TEMPLATES["llava"], question, 0) == case["input_ids"]
    assert TEMPLATES["llava"].prompt(question, False) == case["formatted"]


def test_a_picture_is_576_tokens_between_the_template_and_the_question(llava):
    ids = llava.prompt(TEMPLATES["llava"], "Who is this?", 576)
    assert llava.id_of("<image>") == 32000 and llava.id_of("<pad>") == 32001
    place = ids.index(32000)
    # BOS is 1, "USER:" 3148 1001 29901 as in the published prompt, the blank before <image> 29871.
    assert ids[:place] == [1, 3148, 1001, 29901, 29871]
    assert ids[place : place + 576] == [32000] * 576
    assert ids.count(32000) == 576 and ids[-5:] == llava.ids("ASSISTANT:")


@pytest.mark.parametrize("name", ["llava", "llava-end", "vicuna", "inst"])
def test_prompt_and_answer_joined_are_the_tokens_of_the_whole_text(llava, name):
    """All 400 questions and answers of forget10, and answers that begin with signs."""
    made = TEMPLATES[name]
    for row in tofu_rows("forget10") + [
        {"question": "Which?", "answer": answer} for answer in ("1984", "«Ja»", "Émile Zola", "no")
    ]:
        whole = llava.ids(made.prompt(row["question"], False) + made.answer(row["answer"]))
        assert joined(llava, made, row["question"], row["answer"])[1:] == whole


def joined(tokenizer, made, question, answer):
    prompt, (merged, ids) = tokenizer.prompt(made, question, 0), tokenizer.answer(made, answer)
    return prompt[: len(prompt) - merged] + ids


def test_a_token_of_both_prompt_and_answer_is_not_supervised(llava):
    """Llama has one token for "]" and a quotation mark.

    Without that token, '"No," he said' after [/INST] has 5 tokens, as TOFU counts.
    """
    inst, answer = TEMPLATES["inst"], '"No," he said.'
    merged, ids = llava.answer(inst, answer)
    assert merged == 1 and llava._tokenizer.id_to_token(ids[0]) == ']"'
    whole = llava.ids(inst.prompt("Which?", False) + inst.answer(answer))
    assert joined(llava, inst, "Which?", answer)[1:] == whole
    assert len(ids) - merged == len(whole) - len(llava.ids(inst.prompt("Which?", False)))


def test_qwen_prompts_have_a_system_turn_and_the_picture_before_the_question(qwen):
    """Special ids are from the table of special tokens; the words between are tokenised."""
    made = TEMPLATES["qwen2-vl"]
    start, end, line = 151644, 151645, qwen.ids("\n")
    expected = [
        start,
        *qwen.ids("system\nYou are a helpful assistant."),
        end,
        *line,
        start,
        *qwen.ids("user\n"),
        151652,
        *[151655] * 5,
        151653,
        *qwen.ids("Who is this?"),
        end,
        *line,
        start,
        *qwen.ids("assistant\n"),
    ]
    assert qwen.prompt(made, "Who is this?", 5) == expected
    assert qwen.answer(made, "Hina Ameen.") == (0, [*qwen.ids("Hina Ameen."), end, *line])


def test_qwen_prompt_and_answer_joined_are_the_tokens_of_the_whole_text(qwen):
    made = TEMPLATES["qwen2-vl"]
    for row in tofu_rows("forget10"):
        whole = qwen.ids(made.prompt(row["question"], False) + made.answer(row["answer"]))
        assert joined(qwen, made, row["question"], row["answer"]) == whole


# What the families' own chat templates make of one question and its answer.
GOLDEN = {
    ("llava", True): "USER: <image>\nWho is this? ASSISTANT: Hina. ",
    ("llava", False): "USER: Who is this? ASSISTANT: Hina. ",
    ("llava-end", True): "USER: <image>\nWho is this? ASSISTANT: Hina.</s>",
    ("inst", False): "[INST] Who is this? [/INST]Hina.</s>",
    ("qwen2-vl", True): (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Who is this?<|im_end|>\n"
        "<|im_start|>assistant\nHina.<|im_end|>\n"
    ),
    ("qwen2-vl", False): (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWho is this?<|im_end|>\n"
        "<|im_start|>assistant\nHina.<|im_end|>\n"
    ),
}


@pytest.mark.parametrize("name, has_image", GOLDEN)
def test_templates_render_as_the_families_do(name, has_image):
    made = TEMPLATES[name]
    assert made.prompt("Who is this?", has_image) + made.answer("Hina.") == GOLDEN[name, has_image]


def test_braces_in_a_question_are_not_replaced():
    assert TEMPLATES["inst"].prompt("{question} {0}?", False) == "[INST] {question} {0}? [/INST]"
