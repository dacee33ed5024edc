"""An adapter directory that does not fit is refused with one line, and nothing is attached."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from clear_ref.common.errors import UserError
from clear_ref.model import expression, lora, peft_format
from clear_ref.model.vlm import load_without_weights
from tests.helpers.peft_files import (
    CONFIG,
    FULL,
    TODAY,
    WEIGHTS,
    check_refused,
    skeleton,
    write_adapter,
)

BAD = {
    "another kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected 'LORA'"),
    "no kind": ({"peft_type": None}, "peft_type is None"),
    "no rank": ({"r": None}, "r is None; expected a whole number above 0"),
    "rank 0": ({"r": 0}, "r is 0"),
    "rank true": ({"r": True}, "r is True"),
    "another rank": ({"r": 3}, r"misshapen 4: .*\[2, 24\], expected \[3, 24\]"),
    "a rank that no memory holds": ({"r": 10**12}, "misshapen 4"),
    "alpha a text": ({"lora_alpha": "4"}, "lora_alpha is '4'; expected a number"),
    "alpha not finite": ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
    "no targets": ({"target_modules": None}, "target_modules is None"),
    "empty targets": ({"target_modules": []}, r"target_modules is \[\]"),
    "targets of numbers": ({"target_modules": [1]}, r"target_modules is \[1\]"),
    "no expression": (
        {"target_modules": "(q_proj"},
        "target_modules is '.q_proj', no regular expression",
    ),
    "fewer targets than tensors": (
        {"target_modules": ["q_proj"], "exclude_modules": ".*vision.*|.*[12].self_attn.*"},
        "target_modules, exclude_modules: chosen are 1 layers, .* has 2; .* differ in .*k_proj",
    ),
    "more targets than tensors": (
        {"target_modules": ["q_proj", "k_proj"]},
        "target_modules: chosen are 12 layers, .* has 2",
    ),
    "pattern not an object": ({"rank_pattern": [1]}, "rank_pattern is"),
    "pattern of no rank": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern is"),
    "pattern no expression": (
        {"alpha_pattern": {"(": 1}},
        "alpha_pattern is .*no regular expression",
    ),
    "bias": ({"bias": "some"}, "bias is 'some'; expected none"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*; expected None"),
    "dora": ({"use_dora": True}, "use_dora is True; expected False"),
    "another layer": (
        {"target_modules": ["q_proj"], "layers_to_transform": 2},
        "target_modules, layers_to_transform: chosen are 2 layers, .* has 2; .* in .*layers.0",
    ),
    "a layer named and left out": (
        {"layers_to_transform": [1]},
        r"layers_to_transform is \[1\] and leaves out .*layers.0.*, which target_modules names",
    ),
    "layers by text": ({"layers_to_transform": "0"}, "layers_to_transform is '0'; expected layer"),
    "layers true": ({"layers_to_transform": True}, "layers_to_transform is True"),
    "layers of an expression": (
        {"target_modules": ".*q_proj", "layers_to_transform": 0},
        "layers_to_transform is 0, and target_modules is an expression; expected a list",
    ),
    "pattern without layers": (
        {"layers_pattern": "layers"},
        "layers_pattern is 'layers' without layers_to_transform; expected both",
    ),
    "pattern no expression, of layers": (
        {"layers_to_transform": 0, "layers_pattern": ["("]},
        "layers_pattern is .*no regular expression",
    ),
    "a task with a classifier": ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'; expected None"),
    "biases of adapters": ({"lora_bias": True}, "lora_bias is True; expected False"),
    "an option of tomorrow": ({"use_tomorrow": 3}, "use_tomorrow is 3"),
    "changed base weights": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "start of another type": ({"init_lora_weights": []}, "init_lora_weights is"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_a_config_that_is_not_computed_here_is_refused_and_nothing_is_attached(
    tiny, tmp_path, kind
):
    change, expected = BAD[kind]
    check_refused(tiny, write_adapter(tmp_path / "a", tiny.model, TODAY, **change), expected)


TENSORS = {
    "one half": (
        lambda t: {n: v for n, v in t.items() if "k_proj.lora_B" not in n},
        "missing 1: .*k_proj.lora_B",
    ),
    "misshapen": (lambda t: {n: v[:, :1].clone() for n, v in t.items()}, "misshapen 4"),
    "another model's": (
        lambda t: {n.replace("layers.0", "layers.9"): v for n, v in t.items()},
        "layers.9.*no linear layer",
    ),
    "a saved module": (
        lambda t: t | {"base_model.model.lm_head.weight": torch.ones(2, 2)},
        "misshapen 1: base_model.model.lm_head.weight",
    ),
    "part of a model": (
        lambda t: t | {"base_model.model.score.weight": torch.ones(2, 2)},
        "holds base_model.model.score.weight",
    ),
    "an embedding": (
        lambda t: (
            t
            | {
                "base_model.model.model.language_model.embed_tokens.lora_embedding_A": torch.ones(
                    2, 2
                )
            }
        ),
        "holds",
    ),
    "a norm": (
        lambda t: (
            t | {"base_model.model.model.language_model.norm.lora_A.weight": torch.ones(2, 2)}
        ),
        "no linear layer",
    ),
    "none": (lambda t: {}, "holds no tensor"),
    "whole numbers": (lambda t: {n: v.long() for n, v in t.items()}, "is I64; expected one of F32"),
    "two generations": (
        lambda t: {
            n.replace("model.language_model", "language_model.model") if "q_proj" in n else n: v
            for n, v in t.items()
        },
        "several generations",
    ),
    "one layer twice": (
        lambda t: (
            t
            | {
                n.replace("model.language_model", "language_model.model"): v + 0
                for n, v in t.items()
            }
        ),
        "several generations",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_attached(tiny, tmp_path, kind):
    change, expected = TENSORS[kind]
    directory = write_adapter(tmp_path / "a", tiny.model, TODAY)
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS)
    check_refused(tiny, directory, expected)


def test_missing_and_broken_files_are_named(tiny, tmp_path):
    check_refused(tiny, tmp_path, f"{CONFIG}: no such file")
    directory = write_adapter(tmp_path / "a", tiny.model, TODAY)
    for data, expected in ((b"", "not a whole safetensors file"), (None, "no such file")):
        (directory / WEIGHTS).unlink() if data is None else (directory / WEIGHTS).write_bytes(data)
        check_refused(tiny, directory, f"{WEIGHTS}: {expected}")
    for text, expected in (
        ("[]", "holds list"),
        ("{", "not JSON"),
        ('{"r": 1, "r": 2}', "the key r is given twice"),
    ):
        (directory / CONFIG).write_text(text)
        check_refused(tiny, directory, f"{CONFIG}: {expected}")


def test_an_adapter_of_a_tied_head_is_refused(tmp_path):
    """PEFT adapts such a head alone and leaves the embedding as it is; here they are one tensor."""
    bare = skeleton({"model.layers.0.self_attn.q_proj": (4, 4), "lm_head": (8, 4)})
    directory = write_adapter(tmp_path / "a", bare, {"lm_head": "lm_head"})
    tied = skeleton({"model.layers.0.self_attn.q_proj": (4, 4)})
    with pytest.raises(UserError, match=r"adapts lm_head, which is the embedding .*target_modules"):
        peft_format.load(tied, "qwen2", directory)


def test_a_layers_number_is_found_as_peft_finds_it(tiny, tmp_path):
    """Worked out by hand from PEFT's rule: the first number behind two names, or behind the ones
    that layers_pattern lists. No number after `linear_`: the projector is left out.
    """
    ends = ["q_proj", "linear_1"]
    language = {name: today for name, today in TODAY.items() if "q_proj" in name}
    tower = {
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj": (
            "model.vision_tower.encoder.layers.0.self_attn.q_proj"
        )
    }
    for number, (config, layers) in enumerate(
        [
            ({"layers_to_transform": 0}, language | tower),
            ({"layers_to_transform": [0], "layers_pattern": "layers"}, language | tower),
            ({"layers_to_transform": 0, "layers_pattern": r"encoder\.layers"}, tower),
            (
                {"layers_to_transform": 0, "layers_pattern": ["none", "language_model.layers"]},
                language,
            ),
        ]
    ):
        directory = write_adapter(
            tmp_path / str(number), tiny.model, layers, target_modules=ends, **config
        )
        assert set(tiny.load_adapter(directory)) == set(layers)
        lora.merge(tiny.model)


def test_a_copy_of_a_base_weight_has_to_be_the_models_own(tiny, tmp_path):
    """PEFT stores the head's base weight beside an adapter of the head.

    When PEFT loads the adapter, it replaces the model's weight with this copy.
    """
    head, name = "language_model.lm_head", "base_model.model.lm_head.base_layer.weight"
    directory = write_adapter(tmp_path / "a", tiny.model, {head: "lm_head"})
    tensors, weight = (
        load_file(directory / WEIGHTS),
        lora.linear_layers(tiny.model)[head].weight.detach(),
    )
    for change, expected in (
        (lambda w: w + 1, "base_layer.weight is not the model's"),
        (lambda w: w[1:].clone(), "misshapen 1"),
    ):
        save_file(tensors | {name: change(weight)}, directory / WEIGHTS)
        check_refused(tiny, directory, expected)
    save_file(tensors | {name.replace("lm_head", FULL): weight.clone()}, directory / WEIGHTS)
    check_refused(tiny, directory, "misshapen 1: .*base_layer.weight")
    embedding = tiny.weights()["language_model.model.embed_tokens.weight"].detach()
    copies = {
        name: weight.clone(),
        "base_model.model.model.language_model.embed_tokens.weight": embedding.clone(),
    }
    save_file(tensors | copies, directory / WEIGHTS)
    assert tiny.load_adapter(directory) == [head]
    sketch = load_without_weights(tiny.directory, adapter=directory)
    assert list(lora.adapters(sketch.model)) == [head]


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": "(.*)*(.*)*(.*)*x"},
        {"exclude_modules": "(.*)*(.*)*(.*)*x"},
        {"rank_pattern": {"(.*)*(.*)*(.*)*x": 3}},
    ],
)
def test_an_expression_without_end_is_an_error_in_time(tiny, tmp_path, change, monkeypatch):
    """Backtracking would try every way to split a name, and the number of ways is exponential.

    A timer that was set before is set again afterwards.
    """
    monkeypatch.setattr(expression, "TIME_LIMIT_S", 0.05)
    heard, before = [], signal.signal(signal.SIGVTALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_VIRTUAL, 3600)
    try:
        started = time.monotonic()
        check_refused(
            tiny,
            write_adapter(tmp_path / "a", tiny.model, TODAY, **change),
            f"{next(iter(change))} is .*, not matched with .*_proj within 0.05 s; "
            "expected a simpler expression",
        )
        assert (
            time.monotonic() - started < 5
            and signal.getsignal(signal.SIGVTALRM)(0, None) is None
            and heard == [1]
        )
        assert 3500 < signal.getitimer(signal.ITIMER_VIRTUAL)[0] < 3601
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_expressions_match_whole_names_in_any_thread():
    """In other threads no timer can be set; this expression needs none."""
    wanted = expression.Expression.of(r".*\.(q|v)_proj", "targets")
    with ThreadPoolExecutor(1) as pool:
        for name, expected in (("a.q_proj", True), ("a.k_proj", False), ("a.q_proj.b", False)):
            assert wanted.matches(name) is expected is pool.submit(wanted.matches, name).result()


def test_a_second_adapter_is_refused(tiny, tmp_path):
    directory = write_adapter(tmp_path / "a", tiny.model, TODAY)
    tiny.load_adapter(directory)
    with pytest.raises(UserError, match="already carries LoRA adapters"):
        tiny.load_adapter(directory)
