"""Someone else's loss function held against the golden vectors: pass, acceptable or fail, and which known mistake explains it."""

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from clear_ref.common.errors import UserError
from clear_ref.common.progress import Progress
from clear_ref.common.settings import setting
from clear_ref.methods import METHODS, SEMANTICS, make_options
from clear_ref.methods.table import DEFAULT_SEMANTICS
from clear_ref.oracle.mistakes.known import MISTAKES, loss_with_mistake
from clear_ref.oracle.reference import formulas

from . import golden, judged_function

UNITS = {"float64": 1e-12, "float32": 8 * 2.0**-24, "bfloat16": 8 * 2.0**-8}
REASON = """A number may be off by unit x (scale + largest logit x weight). scale, the sum of the terms' sizes, is rounded a few
times; each log-probability once more at the size of the largest logit, as log-sum-exp minus logit is; weight: how much all of
them count. unit is eight roundings of the dtype (float32 5e-07, bfloat16 3.1e-02), in float64 some thousand (1e-12). The inputs
are exact in all three. In bfloat16 a mistake smaller than that passes."""
IGNORING = ", the options ignored"
CONTRACT = """f(method, batches, options) -> loss, or (loss, {batch: d loss / d logits}), over every sequence of every batch:
  batches  {name: {array name: array}}: input_ids, labels, attention_mask, kinds [B, T]; logits, teacher_logits [B, T, V], for
           rmu hidden, teacher_hidden [B, T, D] and in forget control [n, D], unit directions. Labels are aligned with input_ids
           (the shift is yours), -100 is ignored; kinds: 0 padding, 1 image, 2 prompt, 3 answer
  options  every option of the meaning asked for, and "semantics", its name
Tensors by default, numpy arrays with f.framework = "numpy" or --framework numpy. A loss with a grad_fn is differentiated."""


@dataclass(frozen=True)
class ConformSettings:
    impl: str = setting(
        "", "the function, as module:function; the working directory is searched too"
    )
    vectors: str = setting(
        "", "directory of golden vectors; none: the compact set, made on the spot"
    )
    methods: str = setting("", "methods to ask for, with commas; none: all of the vectors'")
    semantics: str = setting(DEFAULT_SEMANTICS, "meanings to ask for, with commas, or all")
    dtype: str = setting("float64", "dtype of the logits given: float64, float32 or bfloat16")
    framework: str = setting(
        "", "torch or numpy; none: the function's attribute `framework`, or torch"
    )


def run(settings, strict=False) -> dict:
    """{"impl", ..., "counts", "methods": {method: counts, error, mistakes}, "cases": [verdicts], "passed"}.

    strict  another meaning than the one asked for fails as well
    raises  UserError for a function that cannot be judged, and unknown names
    """
    methods = chosen("methods", settings.methods or ",".join(METHODS), METHODS)
    meanings = (
        SEMANTICS
        if settings.semantics == "all"
        else chosen("semantics", settings.semantics, SEMANTICS)
    )
    theirs = judged_function.load(settings.impl, settings.framework, settings.dtype)
    vectors = golden.read(settings.vectors) if settings.vectors else golden.build()
    entries = [
        entry
        for entry in vectors.entries
        if entry["result"] != "invalid"
        and entry["method"] in methods
        and entry["semantics"] in meanings
    ]
    if not entries:
        raise UserError(
            f"no case of {', '.join(methods)} in {', '.join(meanings)}; expected a meaning that the methods have"
        )
    verdicts = []
    progress = Progress("conform", len(entries), "case")
    for entry in entries:
        verdicts.append(judge(vectors, entry, theirs, strict))
        progress.step()
    progress.close()
    return {
        "impl": settings.impl,
        "framework": theirs.framework,
        "dtype": settings.dtype,
        "semantics": list(meanings),
        "strict": strict,
        "tolerance": {"unit": UNITS[settings.dtype], "reason": " ".join(REASON.split())},
        "counts": counted(verdicts),
        "methods": {
            method: summary([v for v in verdicts if v["method"] == method])
            for method in methods
            if any(v["method"] == method for v in verdicts)
        },
        "passed": not any(verdict["verdict"] == "fail" for verdict in verdicts),
        "cases": verdicts,
    }


def judge(vectors, entry, theirs, strict) -> dict:
    """{"id", "method", "flags", "verdict", "loss", "expected", "error", "gradient_error", "meaning", "mistakes"} of one case.

    error     |loss - expected| / scale;  gradient_error: the largest difference / the largest gradient, None without gradients
    meaning   the meaning that it computes, where that is not the one asked for
    mistakes  the known mistakes that give its loss or, where the loss is right, its gradient
    """
    batches = vectors.batches(entry)
    loss, gradients = theirs(entry, batches)
    expected = vectors.gradients(entry)
    logits = max(
        np.abs(array).max()
        for batch in batches.values()
        for key, array in batch.items()
        if key.endswith(("logits", "hidden"))
    )
    unit = UNITS[theirs.dtype]

    def near(value, scale, weight) -> bool:
        return abs(value - loss) <= unit * (scale + logits * weight)

    def agrees(value, other, scale, weight) -> bool:
        if not near(value, scale, weight):
            return False
        if gradients is None or any(
            other[name].shape != gradients[name].shape for name in gradients
        ):
            return True
        size = max(np.abs(other[name]).max() for name in gradients)
        return all(
            np.abs(other[name] - gradients[name]).max() <= unit * (size + logits * weight)
            for name in gradients
        )

    found = {
        "id": entry["id"],
        "method": entry["method"],
        "flags": entry["flags"],
        "verdict": "pass",
        "loss": loss,
        "expected": entry["loss"],
        "error": abs(loss - entry["loss"]) / entry["scale"]
        if entry["scale"]
        else abs(loss - entry["loss"]),
        "gradient_error": None,
        "meaning": None,
        "mistakes": [],
    }
    if gradients is not None:
        away = max(np.abs(gradients[name] - expected[name]).max() for name in gradients)
        found["gradient_error"] = float(
            away / (max(np.abs(array).max() for array in expected.values()) or 1.0)
        )
    if agrees(entry["loss"], expected, entry["scale"], entry["weight"]):
        return {**found, "verdict": entry["result"] if entry["result"] == "acceptable" else "pass"}
    known = everything(vectors, entry, batches)
    meaning = next(
        (
            name
            for name, answer in other_meanings(entry, known)
            if agrees(answer.loss, answer.gradients, answer.scale, answer.weight)
        ),
        None,
    )
    with_mistake = {
        m.name: loss_with_mistake(m, entry["method"], entry["semantics"], entry["options"], known)
        for m in MISTAKES
    }
    size = (entry["scale"], entry["weight"])
    right_loss = near(entry["loss"], *size)  # then only a gradient can tell a mistake
    mistakes = [
        name
        for name, answer in with_mistake.items()
        if answer is not None
        and near(answer.loss, *size)
        and (not right_loss or agrees(answer.loss, answer.gradients, *size))
    ]
    acceptable = meaning is not None and not meaning.endswith(IGNORING) and not strict
    return {
        **found,
        "verdict": "acceptable" if acceptable else "fail",
        "meaning": meaning,
        "mistakes": mistakes,
    }


def everything(vectors, entry, batches) -> dict:
    """Every batch of a case's shape, with every array: other meanings and mistakes read more than the case shows."""
    wanted, found = "hidden" if entry["method"] == "rmu" else "logits", {}
    for key, array in vectors.arrays["inputs"].items():
        shape, name, array_name = key.split("/", 2)
        if shape == entry["shape"] and (
            array_name in (wanted, f"teacher_{wanted}") or array.dtype == np.int64
        ):
            found.setdefault(name, {})[array_name] = array
    return {
        name: {**batch, **batches.get(name, {})} for name, batch in found.items() if wanted in batch
    }


def other_meanings(entry, batches):
    """(name, Answer) of what else a function may compute on a case: another meaning with the options asked for or with its own,
    then any meaning that has not read them (IGNORING in its name)."""
    method, asked = entry["method"], entry["semantics"]
    changed = {
        name: value
        for name, value in entry["options"].items()
        if value != usual_options(method, asked)[name]
    }
    others = sorted(
        METHODS[method].VARIANTS, key=lambda name: (not name.startswith("released"), name)
    )
    known = {semantics: usual_options(method, semantics).keys() for semantics in others}
    tried = [
        (
            semantics,
            semantics,
            {name: value for name, value in given.items() if name in known[semantics]},
        )
        for semantics in others
        if semantics != asked and changed.keys() <= known[semantics]
        for given in (entry["options"], changed)
    ]
    tried += [
        (
            semantics + IGNORING,
            semantics,
            {name: value for name, value in changed.items() if name in ("n_random",)},
        )
        for semantics in (asked, *others)
        if changed
    ]
    for name, semantics, given in tried:
        try:
            options = asdict(make_options(method, given, semantics))
            yield name, formulas.reference_loss(method, semantics, options, batches)
        except (
            UserError,
            KeyError,
        ):  # an option, its value or a batch that the other meaning has and this one has not
            continue


def usual_options(method, semantics) -> dict:
    """Every option of a meaning, as it is by default."""
    return asdict(make_options(method, {}, semantics))


def summary(verdicts) -> dict:
    """Counts of one method, its largest errors, and the meanings and mistakes by how many cases they explain."""
    failed = [verdict for verdict in verdicts if verdict["verdict"] != "pass"]
    return {
        **counted(verdicts),
        "error": max(verdict["error"] for verdict in verdicts),
        "gradient_error": max(
            (v["gradient_error"] for v in verdicts if v["gradient_error"] is not None), default=None
        ),
        "meanings": Counter(verdict["meaning"] for verdict in failed if verdict["meaning"]),
        "mistakes": Counter(name for verdict in failed for name in verdict["mistakes"]),
    }


def meaning_named(name) -> str:
    """ "released" as "the released meaning", with what was ignored behind it."""
    semantics, _, ignoring = name.partition(",")
    return f"the {semantics} meaning{',' * bool(ignoring)}{ignoring}"


def counted(verdicts) -> dict:
    """{"pass", "acceptable", "fail"}: how many."""
    count = Counter(verdict["verdict"] for verdict in verdicts)
    return {name: count[name] for name in ("pass", "acceptable", "fail")}


def chosen(option, text, known) -> list[str]:
    """The names in a text with commas; UserError for one that is unknown."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"--{option}: {name!r} is unknown; expected {', '.join(known)}")
    return names


def text(found, every_case=False) -> str:
    """A line for each method, then one for each case, or for those that fail, alike ones together."""
    counts = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
    lines = [
        f"{found['impl']} ({found['framework']}, {found['dtype']}), asked for {', '.join(found['semantics'])}: {counts}",
        "",
        f"{'method':12} {'pass':>5} {'accept.':>7} {'fail':>5} {'loss off':>9} {'grad. off':>9}  explained by",
    ]
    for method, row in found["methods"].items():
        gradient = "-" if row["gradient_error"] is None else f"{row['gradient_error']:.1e}"
        why = [f"{meaning_named(name)} ({n})" for name, n in row["meanings"].items()]
        why += [
            f"{name} ({n})"
            for name, n in sorted(row["mistakes"].items(), key=lambda pair: -pair[1])
        ]
        lines.append(
            f"{method:12} {row['pass']:5} {row['acceptable']:7} {row['fail']:5} {row['error']:9.1e} {gradient:>9}  "
            + ", ".join(why)
        )
    groups = {}
    for case in found["cases"]:
        meaning = [meaning_named(case["meaning"])] if case["meaning"] else []
        why = (
            ""
            if case["verdict"] == "pass"
            else ": " + (", ".join([*meaning, *case["mistakes"]]) or "no known mistake")
        )
        if every_case or case["verdict"] == "fail":
            groups.setdefault(case["id"] if every_case else (case["method"], why), []).append(
                (case, why)
            )
    lines += [""] * bool(groups)
    for (case, why), *others in groups.values():
        more = f" and {len(others)} more" if others else ""
        lines.append(
            f"{case['verdict']:10} {case['id']}{more}: loss {case['loss']:.6g}, expected {case['expected']:.6g}{why}"
        )
    units = "loss off: difference / sum of the terms' sizes; grad. off: largest difference / largest gradient"
    return "\n".join([*lines, "", units])
