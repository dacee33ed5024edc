"""conform: runs a loss function of another project over the golden vectors.

Each case passes, has a right loss without a gradient, is acceptable (other semantics), or fails;
for a failed case the result names the other semantics or the known mistake that explains it.
"""

from collections.abc import Collection
from itertools import product

from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.methods import LOSSES, METHODS, SEMANTICS

from . import golden, judged_function, vector_files
from .agreement import FACTORS, REASON, UNITS, arithmetics
from .case_inputs import ask, chosen
from .causes import Judged
from .conform_result import ConformResult, counts_of, summarize
from .conform_settings import ConformSettings
from .verdict import Verdict, explain, judge


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
