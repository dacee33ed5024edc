"""Which implementation of the token terms runs: by argument, by choice for a run, by environment.

Run: python -m pytest tests/losses/test_implementation.py
"""

import os
import threading

import pytest
import torch

from clear_ref.common.errors import ShapeError, UserError
from clear_ref.common.processes import map_in_processes
from clear_ref.losses import native
from clear_ref.losses.choice import VARIABLE, default_implementation, use_implementation
from clear_ref.losses.implementation import choose_implementation

AUTOMATIC = "native" if native.built() else "torch"
NEEDS_KERNEL = pytest.mark.skipif(
    not native.built(), reason="clear_ref was installed without the compiled kernel"
)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_auto_is_the_kernel_where_it_is_built_and_torch_for_float64():
    assert choose_implementation() == AUTOMATIC
    assert choose_implementation("auto", "cpu", torch.float64) == "torch"
    assert choose_implementation("auto", "meta") == "torch"


def test_the_environment_says_what_auto_means(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    assert choose_implementation() == "torch"
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(UserError, match=f"{VARIABLE} is 'fast'; expected auto, torch or native"):
        choose_implementation()


def test_a_choice_for_a_run_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    with use_implementation("auto"):
        assert choose_implementation() == AUTOMATIC
        with use_implementation("torch"):
            assert choose_implementation() == "torch"
        assert default_implementation() == "auto"
    assert default_implementation() == "torch"


def test_no_choice_keeps_what_was_chosen(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    with use_implementation(None):
        assert default_implementation() == "torch"
        with use_implementation("auto"), use_implementation(None):
            assert default_implementation() == "auto"


def test_a_choice_ends_with_its_block_after_an_error_too():
    with pytest.raises(RuntimeError), use_implementation("torch"):
        raise RuntimeError
    assert default_implementation() == "auto"


def test_a_choice_holds_in_other_threads_and_in_forks():
    found = []
    with use_implementation("torch"):
        thread = threading.Thread(target=lambda: found.append(choose_implementation()))
        thread.start()
        thread.join()
        in_processes = map_in_processes(
            lambda _: [os.getpid(), choose_implementation()], [0, 1], n_processes=2
        )
    assert found == ["torch"]
    assert [name for _, name in in_processes] == ["torch", "torch"]
    assert len({process for process, _ in in_processes}) == 2


def test_an_unknown_name_is_refused():
    for choose in (choose_implementation, lambda name: use_implementation(name).__enter__()):
        with pytest.raises(UserError, match="impl is 'fast'; expected auto, torch or native"):
            choose("fast")


def test_native_is_refused_where_it_is_not_built(monkeypatch):
    monkeypatch.setattr(native, "_MODULE", None)
    message = "impl is 'native', but clear_ref was installed without the compiled kernel"
    with pytest.raises(UserError, match=message):
        choose_implementation("native")
    with pytest.raises(UserError, match=message), use_implementation("native"):
        pass
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(UserError, match=message):
        choose_implementation()
    assert choose_implementation("torch") == "torch"


@NEEDS_KERNEL
def test_native_is_refused_for_what_the_kernel_does_not_support():
    with pytest.raises(ShapeError, match="dtype torch.float64; expected bfloat16, float16 or"):
        choose_implementation("native", "cpu", torch.float64)
    with pytest.raises(ShapeError, match="is on meta; expected a device the kernel was built for"):
        choose_implementation("native", "meta")
    with use_implementation("native"):  # what auto means: where the kernel cannot, torch runs
        assert choose_implementation("auto", "cpu", torch.float64) == "torch"


@NEEDS_KERNEL
def test_an_instruction_set_is_used_inside_its_block_alone():
    names = native.instruction_sets()
    assert native.instruction_set() == names[-1]
    for index, name in enumerate(names):
        with native.use_instruction_set(name):
            assert native.instruction_set() == native.description()["instruction_set"] == name
            assert native.instruction_set_index() == index
    assert native.instruction_set() == names[-1]
    with pytest.raises(UserError, match="instruction set is 'sse9'; expected one of: baseline"):
        native.use_instruction_set("sse9").__enter__()
