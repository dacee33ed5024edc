"""`bench --what likelihood`: it counts what the decoder computes, results are equal.

Run: python -m pytest tests/bench/test_bench_likelihood.py
"""

import pytest

from clear_ref import run
from clear_ref.bench import likelihood as bench
from clear_ref.data.prompts import read_phrases
from clear_ref.evaluation.tasks import items, tasks
from clear_ref.mini.directories import WORLD


@pytest.mark.slow
def test_a_case_counts_tokens_as_by_hand_and_finds_the_ways_equal(tiny):
    """Names of three records.

    plain computes the prompt again for each candidate. shared computes it once, and each answer's
    tokens once, in a batch padded to the longest prompt (all are equal: one question) and to the
    widest row. In float64 results are equal to 1e-10.
    """
    found = bench.measured(tiny, "names", 3, 2, None)
    rows = items(tasks(10, 64)[5], WORLD, read_phrases(WORLD), 3)
    texts = [list(dict.fromkeys((item.answer, item.paraphrased, *item.perturbed))) for item in rows]
    prompt = tiny.encode([rows[0].prompt]).input_ids.shape[1]
    lengths = [
        [len(tiny.tokenizer.answer(tiny.template, text)[1]) for text in of_one] for of_one in texts
    ]
    tokens = {way: one["decoder_tokens"] for way, one in found["ways"].items()}
    assert tokens == {
        "plain": sum(prompt + n for of_one in lengths for n in of_one),
        "shared, one record": sum(prompt + sum(of_one) for of_one in lengths),
        "shared, batched": 3 * (prompt + max(map(sum, lengths))),
    }
    assert all(one["apart"] < 1e-10 and len(one["seconds"]) == 2 for one in found["ways"].values())
    assert (found["records"], found["candidates"], found["prompt_tokens"]) == (
        3,
        sum(map(len, texts)),
        prompt,
    )


def test_the_table_shows_ratios_of_medians():
    def way(tokens, *seconds):
        return {"decoder_tokens": tokens, "seconds": list(seconds), "apart": 2e-7}

    found = {
        "command": "bench",
        "hardware": {"cpu": "a CPU"},
        "kernel": {"instruction_set": None},
        "versions": {"python": "3", "torch": "2"},
        "settings": {"threads": 1, "rounds": 3},
        "cases": [
            {
                "model": "mini",
                "task": "names",
                "records": 4,
                "candidates": 9,
                "answer_tokens": 2.6,
                "prompt_tokens": 5.0,
                "ways": {
                    "plain": way(100, 4.0, 6.0, 5.0),
                    "shared, one record": way(50, 2.0, 1.0, 9.0),
                    "shared, batched": way(25, 1.0, 1.0, 1.0),
                },
            }
        ],
    }
    lines = [
        line.split()
        for line in bench.text(found).splitlines()
        if "shared" in line or "mini" in line
    ]
    assert lines[0][-7:] == ["plain", "100", "1.0", "5.00", "(4.00-6.00)", "1.0", "2e-07"]
    assert lines[1][-5:] == ["2.0", "2.00", "(1.00-9.00)", "2.5", "2e-07"] and lines[2][-5:-3] == [
        "4.0",
        "1.00",
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        ("--records 0", "records is 0; expected 1 or more"),
        ("--shape tiny", "--shape is no setting of bench --what likelihood"),
    ],
)
def test_bad_settings_are_one_line(words, message, capsys):
    assert run.main(["bench", "--what", "likelihood", *words.split()]) == 2
    assert message in capsys.readouterr().err
