"""A changed config.json gives transformers' logits, or one refusal that names the key.

Named changes that people make, and a sample of all changes. It needs the extra `parity`;
more changes: python -m tests.helpers.differential_config.
"""

import pytest
import torch

from clear_ref.common.errors import UserError
from tests.helpers.config_values import DELETE, LLAMA3, changed
from tests.helpers.differential import compare
from tests.helpers.differential_config import World, cases, difference

pytest.importorskip("transformers", reason="the parity extra is not installed")
WRITTEN = "llama, written by transformers"
LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
DEFAULT = {"rope_type": "default"}
AXES = {"type": "mrope", "mrope_section": [1, 1, 1, 1]}
# Name: (the file, its changes, whether a logit of the reference moves by more than 0.01).
EQUAL = {
    "a window in a Llama config": ("llama", [("", "sliding_window", 8)], False),
    "a window in LLaVA's text_config": ("llava", [("text_config", "sliding_window", 8)], False),
    "Mistral's use_sliding_window": ("mistral", [("", "use_sliding_window", False)], False),
    "Mistral's window": ("mistral", [("", "sliding_window", 6)], True),
    "linear beside rope_parameters": (WRITTEN, [("", "rope_scaling", LINEAR)], True),
    "yarn beside rope_parameters": (WRITTEN, [("", "rope_scaling", YARN)], True),
    "llama3 beside rope_parameters": (WRITTEN, [("", "rope_scaling", LLAMA3)], True),
    "the theta of rope_parameters is lost": (
        "llama",
        [("", "rope_parameters", {**DEFAULT, "rope_theta": 9.0}), ("", "rope_scaling", DEFAULT)],
        False,
    ),
    "the theta of rope_parameters": (
        "llama",
        [("", "rope_parameters", {**DEFAULT, "rope_theta": 9.0})],
        True,
    ),
    "partial_rotary_factor with default": ("llama", [("", "partial_rotary_factor", 0.5)], False),
    "windows of Qwen2": (
        "qwen2",
        [("", "use_sliding_window", True), ("", "sliding_window", 5), ("", "max_window_layers", 1)],
        True,
    ),
    "layer_types of Qwen2, an old word": (
        "qwen2",
        [
            ("", "use_sliding_window", True),
            ("", "sliding_window", 5),
            ("", "layer_types", ["sliding_attention", "attention"]),
        ],
        True,
    ),
    "no use_sliding_window": ("qwen2", [("", "sliding_window", 5)], False),
    "swish": ("llama", [("", "hidden_act", "swish")], False),
    "a list of one feature layer": ("llava", [("", "vision_feature_layer", [-2])], False),
    "another feature layer": ("llava", [("", "vision_feature_layer", [0])], True),
    "image_token_id beats image_token_index": (
        "llava",
        [("", "image_token_index", 3), ("", "image_token_id", 50)],
        False,
    ),
    "biases of attention": ("llama", [("", "attention_bias", True)], True),
    "biases of the feed-forward network": ("llama", [("", "mlp_bias", True)], True),
    "no biases in the projector": ("llava", [("", "multimodal_projector_bias", False)], True),
    "text_config alone ties": ("llava", [("text_config", "tie_word_embeddings", True)], True),
    "text_config ties, the top does not": (
        "llava",
        [("text_config", "tie_word_embeddings", True), ("", "tie_word_embeddings", False)],
        True,
    ),
    "the top alone ties": ("llava", [("", "tie_word_embeddings", True)], True),
    "Qwen2-VL's text_config ties": (
        "qwen2_vl",
        [("text_config", "tie_word_embeddings", True)],
        True,
    ),
    "rope_scaling removed": ("qwen2_vl, flat", [("", "rope_theta", 500.0)], True),
    "another name of depth": ("qwen2_vl", [("vision_config", "num_hidden_layers", 1)], True),
    "theta of the tower": ("qwen2_vl", [("vision_config", "rope_theta", 50.0)], True),
    "three axes again from time": (
        "qwen2_vl",
        [("text_config", "rope_scaling", {**AXES, "rope_theta": 9.0})],
        True,
    ),
    "head_dim at the top of a flat file": ("qwen2_vl, flat", [("", "head_dim", 4)], False),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One thread: two wait for each other longer than these small models compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield World(tmp_path_factory.mktemp("world"))
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["absent", "equal"])
def test_named_changes_give_the_logits_of_transformers(world, head):
    problems = {}
    unchanged = {}
    for name, (base, changes, moves) in EQUAL.items():
        if base not in unchanged:
            unchanged[base] = world.theirs((world.bases[base], head))
        change = (changed(world.bases[base], changes), head)
        expected = world.theirs(change)
        problem = difference(world.ours(change), expected)
        moved = float((expected[0] - unchanged[base][0]).abs().max())
        if problem or (moved > 0.01) != moves:
            problems[name] = (problem, moved)
    assert not problems


def test_a_window_in_a_llama_config_refuses_longer_generation_only(world):
    change = (changed(world.bases["llama"], [("", "sliding_window", 8)]), "absent")
    expected = world.theirs(change)
    plain = world.theirs((world.bases["llama"], "absent"))
    # Why: the reference's forward pass ignores the key, and its generation does not.
    assert torch.equal(expected[0], plain[0]) and (expected[-1] - plain[-1]).abs().max() > 0.01
    found = world.ours(change)
    assert len(found) == 1 and difference(found, expected) == ""


def test_layer_types_that_mistrals_window_contradicts_are_refused(world):
    """The reference's AutoModel then takes another class, in which layer_types decide."""
    base = world.bases["mistral, written by transformers"]
    change = (changed(base, [("", "layer_types", ["full_attention"] * 2)]), "absent")
    plain = world.theirs((base, "absent"))
    assert (world.theirs(change)[0] - plain[0]).abs().max() > 0.01
    with pytest.raises(UserError, match="layer_types is .*; expected 2 of sliding_attention"):
        world.ours(change)


@pytest.mark.parametrize("base", ["llava", "llama", "qwen2_vl, flat"])
def test_a_tied_model_whose_file_has_another_head_is_refused(world, base):
    """The reference keeps the two apart."""
    change = (changed(world.bases[base], [("", "tie_word_embeddings", True)]), "different")
    tied = world.theirs((change[0], "absent"))
    assert (world.theirs(change)[0] - tied[0]).abs().max() > 0.01
    with pytest.raises(UserError, match="lm_head.weight differs from .*tie_word_embeddings false"):
        world.ours(change)


def test_a_rope_scaling_without_mrope_section_loses_the_files_own(world):
    """The reference then takes 16, 24, 24, which does not fit these heads: it fails too."""
    name = "qwen2_vl, written by transformers"
    change = changed(world.bases[name], [("text_config", "rope_scaling", LINEAR)])
    with pytest.raises(RuntimeError):
        world.theirs((change, "absent"))
    with pytest.raises(UserError, match=r"mrope_section is \[16, 24, 24\]; expected"):
        world.ours((change, "absent"))


@pytest.mark.slow
def test_a_sample_of_all_changes_is_equal_or_refused_by_name(world):
    different = []
    n_equal = 0
    n_refused = 0
    for name in world.bases:
        counts = compare(cases(world, name, 14, seed=14), world.ours, world.theirs, difference)
        different += counts.different
        n_equal += counts.equal
        n_refused += counts.refused
    assert not different
    assert n_equal > 80 and n_refused > 10


def test_the_comparison_finds_a_key_that_is_not_read(world):
    """Logits of the unchanged file, in place of ours: the comparison is not blind."""
    rope = [("", "rope_parameters", {"rope_type": "linear", "factor": 2.0})]
    expected = world.theirs((changed(world.bases["llama"], rope), "absent"))
    unchanged = changed(world.bases["llama"], [("", "unknown", DELETE)])
    assert "differ by" in difference(world.ours((unchanged, "absent")), expected)
