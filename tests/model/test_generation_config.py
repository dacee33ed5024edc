"""Generation settings are read where transformers reads them, and each one changes the logits as
worked out here by hand.

The comparison with transformers itself: test_parity_generation.py.
"""

import json
import math

import pytest
import torch

from clear_ref.common.errors import UserError
from clear_ref.data.tokens import Tokenizer
from clear_ref.mini.directories import BASE
from clear_ref.model.generate import ended_texts
from clear_ref.model.generation_config import generation
from clear_ref.model.logit_rules import Step

TOKENIZER = Tokenizer(BASE)
N_TOKENS = 8
# Two prompts of four ids, the first with one id of padding; then two generated ids.
IDS = torch.tensor([[0, 3, 4, 3, 4, 5], [6, 3, 4, 3, 4, 3]])
LOGITS = torch.tensor([[1.0, 2.0, 3.0, 4.0, -5.0, 6.0, 7.0, 8.0]] * 2)
INF = math.inf


def read(tmp_path, own, config=None, n_tokens=N_TOKENS):
    """The settings of a directory; own: generation_config.json, None for no file."""
    if own is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(own))
    return generation(tmp_path, config or {}, n_tokens, TOKENIZER)


def ruled(tmp_path, settings, n_new=2, is_last=False):
    """LOGITS after the rules of generation_config.json, when n_new of the ids are generated."""
    step = Step(IDS[:, : 4 + n_new], 4, torch.tensor([1, 0]), is_last)
    logits = LOGITS.clone()
    for rule in read(tmp_path, {"eos_token_id": 2} | settings).rules:
        logits = rule(step, logits)
    return logits.tolist()


def with_values(**changed):
    """One row of LOGITS with other values: t5=0.0 for the logit of token 5."""
    row = LOGITS[0].tolist()
    for name, value in changed.items():
        row[int(name.removeprefix("t"))] = value
    return row


@pytest.mark.parametrize(
    "own, config, expected",
    [
        ({"eos_token_id": [2, 4]}, {"eos_token_id": 1}, {2, 4}),
        ({"eos_token_id": 0}, {}, {0}),
        ({"eos_token_id": None}, {"eos_token_id": 2}, set()),
        ({}, {"eos_token_id": 2, "text_config": {"eos_token_id": 2}}, set()),
        (None, {"eos_token_id": 2}, {2}),
        (None, {"eos_token_id": 2, "text_config": {"eos_token_id": 1}}, {2}),
        (None, {"eos_token_id": None, "text_config": {"eos_token_id": 1}}, {1}),
        (None, {"text_config": {"eos_token_id": [1, 2]}}, {1, 2}),
        (None, {}, set()),
    ],
)
def test_stop_ids_are_the_generation_configs_or_without_that_file_the_configs(
    tmp_path, own, config, expected
):
    """The tokenizer has the eos token 2, which never counts."""
    assert TOKENIZER.eos == 2
    assert read(tmp_path, own, config).stop_ids == expected


def test_without_a_file_settings_come_from_the_top_level_then_from_the_decoder(tmp_path):
    top = {"repetition_penalty": 2.0, "num_beams": 1, "eos_token_id": 2}
    decoder = {"repetition_penalty": 3.0, "num_beams": 4, "suppress_tokens": [7]}
    assert len(read(tmp_path, None, top | {"text_config": decoder}).rules) == 2
    assert len(read(tmp_path, {}, top | {"text_config": decoder}).rules) == 0
    with pytest.raises(UserError, match=r"config\.json: num_beams is 4; expected None or 1"):
        read(tmp_path / "missing", None, {"text_config": decoder})


@pytest.mark.parametrize(
    "settings, first, second",
    [
        # Row 0 has seen 3, 4, 5 (0 is padding), row 1 has seen 3, 4, 6.
        (
            {"repetition_penalty": 2.0},
            with_values(t3=2.0, t4=-10.0, t5=3.0),
            with_values(t3=2.0, t4=-10.0, t6=3.5),
        ),
        # The prompt alone, padding included, and the inverse.
        (
            {"encoder_repetition_penalty": 2.0},
            with_values(t0=2.0, t3=8.0, t4=-2.5),
            with_values(t3=8.0, t4=-2.5, t6=14.0),
        ),
        # No token twice; after 5 in row 0 nothing has followed, after 3 in row 1 there came 4.
        (
            {"no_repeat_ngram_size": 1},
            with_values(t0=-INF, t3=-INF, t4=-INF, t5=-INF),
            with_values(t3=-INF, t4=-INF, t6=-INF),
        ),
        ({"no_repeat_ngram_size": 2}, with_values(), with_values(t4=-INF)),
        ({"no_repeat_ngram_size": 3}, with_values(), with_values(t4=-INF)),
        ({"no_repeat_ngram_size": 7}, with_values(), with_values()),
        (
            {"encoder_no_repeat_ngram_size": 1},
            with_values(t0=-INF, t3=-INF, t4=-INF),
            with_values(t3=-INF, t4=-INF, t6=-INF),
        ),
        ({"encoder_no_repeat_ngram_size": 2}, with_values(), with_values(t4=-INF)),
        ({"encoder_no_repeat_ngram_size": 4}, with_values(), with_values()),
        # A stop id on its own stays allowed; 5 7 is banned after a 5, 4 3 6 after 4 3.
        (
            {"bad_words_ids": [[2], [1], [5, 7], [4, 3, 6], []]},
            with_values(t1=-INF, t7=-INF),
            with_values(t1=-INF, t6=-INF),
        ),
        (
            {"sequence_bias": [[[1], 9.0], [[5, 1], 1.5], [[3, 2], -0.5]]},
            with_values(t1=12.5),
            with_values(t1=11.0, t2=2.5),
        ),
        ({"min_length": 7}, with_values(t2=-INF), with_values(t2=-INF)),
        ({"min_length": 6}, with_values(), with_values()),
        ({"min_new_tokens": 3}, with_values(t2=-INF), with_values(t2=-INF)),
        ({"min_new_tokens": 2}, with_values(), with_values()),
        ({"min_length": 50, "min_new_tokens": 0}, with_values(), with_values()),
        # One token after the first: |3| (2^1 - 1).
        ({"exponential_decay_length_penalty": [1, 2.0]}, with_values(t2=6.0), with_values(t2=6.0)),
        ({"exponential_decay_length_penalty": [2, 2.0]}, with_values(), with_values()),
        ({"suppress_tokens": [5, 7, 99]}, *[with_values(t5=-INF, t7=-INF)] * 2),
        ({"suppress_tokens": []}, with_values(), with_values()),
        ({"begin_suppress_tokens": [5]}, with_values(), with_values()),
        # A logit that was banned before is made finite.
        (
            {"remove_invalid_values": True, "min_new_tokens": 3},
            *[with_values(t2=torch.finfo(torch.float32).min)] * 2,
        ),
        ({"temperature": 0.3, "top_k": 1, "do_sample": True}, with_values(), with_values()),
    ],
)
def test_a_setting_changes_the_logits_as_by_hand(tmp_path, settings, first, second):
    assert ruled(tmp_path, settings) == [first, second]


def test_the_first_and_the_last_token_have_settings_of_their_own(tmp_path):
    settings = {"begin_suppress_tokens": [5], "forced_eos_token_id": [6, 2]}
    assert ruled(tmp_path, settings, n_new=0)[0] == with_values(t5=-INF)
    assert ruled(tmp_path, settings)[0] == with_values()
    assert ruled(tmp_path, settings, is_last=True)[0] == [-INF, -INF, 0.0, *[-INF] * 3, 0.0, -INF]


def test_log_probabilities_can_be_equal_where_logits_were_not(tmp_path):
    """1e-7 and 0 beside a logit of 30: log-probabilities near -30 are multiples of 1.9e-6."""
    rule = read(tmp_path, {"renormalize_logits": True}).rules[0]
    step = Step(IDS, 4, torch.tensor([1, 0]), False)
    logits = torch.tensor([[0.0, 1e-7, 30.0]])
    found = rule(step, logits)[0]
    assert logits[0, 0] < logits[0, 1] and found[0] == found[1] == -30.0


@pytest.mark.parametrize(
    "own, message",
    [
        ({"eos_token_id": ["</s>"]}, "eos_token_id is"),
        ({"eos_token_id": True}, "eos_token_id is"),
        ({"eos_token_id": 10**30}, "eos_token_id is"),
        (
            {"repetition_penalty": 10**400},
            "holds the number 1000.* of 401 signs; expected at most 308",
        ),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; expected a number above 0"),
        ({"no_repeat_ngram_size": 2.5}, "no_repeat_ngram_size is 2.5; expected a whole number"),
        ({"suppress_tokens": 5}, "suppress_tokens is 5; expected a list of token ids"),
        ({"bad_words_ids": [5]}, "bad_words_ids is .*; expected lists of token ids, each a token"),
        ({"bad_words_ids": [[9]]}, "expected lists of token ids, each a token id below 8"),
        ({"sequence_bias": {"5": 1.0}}, r"sequence_bias is .*; expected a list of \[token ids"),
        ({"forced_eos_token_id": 9}, "forced_eos_token_id is 9; expected .* below 8"),
        ({"exponential_decay_length_penalty": [1, 2]}, "and a model with an eos_token_id"),
        ({"renormalize_logits": 1}, "renormalize_logits is 1; expected true or false"),
        ({"num_beams": 4}, "num_beams is 4; expected None or 1: beam search is not computed"),
        ({"guidance_scale": 1.5}, "guidance_scale is 1.5; expected None or 1"),
        ({"watermarking_config": {}}, r"watermarking_config is {}; expected None: watermarks"),
        ({"penalty_alpha": 0.6}, "penalty_alpha is 0.6; expected None or 0: contrastive"),
        ({"stop_strings": ["."]}, "stop_strings is"),
        ({"cache_implementation": "quantized"}, "a quantized cache changes the logits"),
        ({"logits_processor": []}, "logits_processor is"),
        ({"eos_token_id": 2, "pad_token_id": 100}, "pad_token_id is 100; expected a special token"),
        ({"eos_token_id": [100, 2]}, r"eos_token_id is \[100, 2\]; expected a special token"),
    ],
)
def test_a_wrong_or_refused_setting_is_named(tmp_path, own, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, own)


def test_a_factor_whose_power_is_too_large_is_named(tmp_path):
    with pytest.raises(UserError, match="exponential_decay_length_penalty has the factor 1e"):
        ruled(tmp_path, {"exponential_decay_length_penalty": [1, 1e39]})


def test_what_follows_a_stop_id_is_not_text():
    """Two stop ids: the first one ends a row; 7, the padding, may be an ordinary token."""
    ids = torch.tensor([[5, 2, 7, 7], [5, 6, 5, 6], [1, 7, 7, 7], [7, 7, 3, 2]])
    rows = [[5, 2], [5, 6, 5, 6], [1], [7, 7, 3, 2]]
    assert ended_texts(ids, frozenset({1, 2})) == rows
    assert ended_texts(ids, frozenset()) == ids.tolist()
