"""conform: runs a loss function of another project over the golden vectors.

Each case passes, has a right loss without a gradient, is acceptable (other semantics), or fails;
for a failed case the result names the other semantics or the known mistake that explains it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import setting
from clear_ref.methods import LOSSES, METHODS, SEMANTICS
from clear_ref.methods.table import DEFAULT_SEMANTICS

from . import golden, judged_function, vector_files
from .agreement import FACTORS, REASON, UNITS, arithmetics
from .case_inputs import ask, chosen
from .causes import Judged
from .conform_result import ConformResult, counts_of, summarize
from .verdict import Verdict, explain, judge

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


def run(
    settings: ConformSettings,
    strict: bool = False,
    all_batches: bool = False,
    padded: bool = False,
) -> ConformResult:
    """The verdicts on every case that the settings name.

    strict       other semantics than those asked for fail, too
    all_batches  the function gets every batch with student and teacher, not only what the method
                 reads
    padded       all batches of a case have the same number of positions
    raises  UserError for a function that cannot be judged, and for unknown names
    """
    methods = names_in("methods", settings.methods or ",".join(METHODS), LOSSES)
    if settings.semantics == "all":
        semantics = list(SEMANTICS)
    else:
        semantics = names_in("semantics", settings.semantics, SEMANTICS)
    function = judged_function.load(
        settings.impl, settings.framework, settings.dtype, settings.arithmetic
    )
    vectors = (
        vector_files.read(settings.vectors) if settings.vectors else golden.build(mistakes=False)
    )
    entries = chosen(vectors.entries, methods, semantics, settings.shapes, settings.only)
    verdicts: list[Verdict] = []
    judged: list[Judged] = []
    progress = Progress("conform", len(entries), "case")
    for entry in entries:
        verdict, one = judge(ask(vectors, entry, all_batches, padded), function)
        verdicts.append(verdict)
        judged += [one] if one else []
        progress.step()
    progress.close()
    for method, name in product(methods, semantics):
        group = [one for one in judged if one.asked.variant == (method, name)]
        explain(verdicts, group, strict)
    summaries = {}
    for method in methods:
        of_method = [verdict for verdict in verdicts if verdict["method"] == method]
        if of_method:
            summaries[method] = summarize(of_method)
    return {
        "impl": settings.impl,
        "vectors": {"version": vectors.version, "set": vectors.set},
        "framework": function.framework,
        "dtype": settings.dtype,
        "semantics": semantics,
        "strict": strict,
        "tolerance": {
            "units": {name: FACTORS[name] * UNITS[name] for name in arithmetics(function)},
            "reason": " ".join(REASON.split()),
        },
        "counts": counts_of(verdicts),
        "methods": summaries,
        "passed": not any(verdict["verdict"] == "fail" for verdict in verdicts),
        "cases": verdicts,
    }


def names_in(option: str, text: str, known: Collection[str]) -> list[str]:
    """The names in a text with commas; UserError for an unknown name."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--{option}: {name!r} is unknown; expected {', '.join(known)}")
    return names
