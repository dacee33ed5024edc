"""What `conform` asks of a function, and the settings of the command."""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.methods.semantics import DEFAULT_SEMANTICS

CONTRACT = """f(method, batches, options) -> loss, or (loss, {batch: d loss / d logits}), over every
sequence of every batch:
  batches  {name: {array name: array}}: input_ids, labels, attention_mask, kinds [B, T]; logits,
           teacher_logits [B, T, V], for rmu hidden, teacher_hidden [B, T, D] and in forget
           control [n, D], unit directions. Labels are aligned with input_ids (the shift is
           yours), -100 is ignored; kinds: 0 padding, 1 image, 2 prompt, 3 answer
  options  every option of the semantics asked for, and "semantics", their name
Arrays are tensors by default, numpy arrays with f.framework = "numpy" or --framework numpy.
A loss with a grad_fn is differentiated; without a gradient only the loss is judged. B and T may
differ between batches (--padded: one T). The arithmetic that a function declares, f.arithmetic or
--arithmetic, is that of its operations, not of its inputs: float32 for code that casts up."""


@dataclass(frozen=True)
class ConformSettings:
    """Options of `conform`."""

    impl: str = setting(
        "", "the function, as module:function; the working directory is searched too"
    )
    vectors: str = setting("", "directory of golden vectors; without it the compact set is built")
    methods: str = setting(
        "", "methods and further losses to test, with commas; without it the eleven methods"
    )
    semantics: str = setting(DEFAULT_SEMANTICS, "semantics to test, with commas, or all")
    dtype: str = setting("float64", "dtype of the logits given: float64, float32 or bfloat16")
    framework: str = setting(
        "", "torch or numpy; without it the function's attribute `framework`, or torch"
    )
    arithmetic: str = setting(
        "",
        "what it computes in: float64, float32 or bfloat16; without it the function's attribute "
        "`arithmetic`, or float32 and, for float64 logits, float64 before",
    )
    shapes: str = setting("", "shapes of inputs to test, with commas; without it all shapes")
    only: str = setting(
        "", "cases to test: patterns of their ids with commas, * for any text, such as kl/*/plain"
    )
    junit: str = setting("", "file for the verdicts as JUnit XML, a test case for each case")
