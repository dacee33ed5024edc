"""How often conform names a seeded composition of two known mistakes: counts, and the exceptions.

A composition is computed by the reference on the stored cases of a few shapes; its losses and
gradients are what conform gets. It counts as
  exact    the pair is among the names
  unnamed  no name; the first place that differs is printed instead
  false    names without the pair and without either of the two
Where the pair gives the numbers of one of the two in every case, the other changes nothing beside
it, and the one is named: no output can tell. Such pairs are drawn again, and counted as absorbed.

Run: python -m tests.helpers.composed_mistakes --pairs 200 --seed 16
"""

import argparse
import random
from collections import Counter
from functools import cache
from unittest import mock

import numpy as np

from clear_ref.oracle.mistakes.known import MISTAKES
from clear_ref.oracle.mistakes.peers import PEERS
from clear_ref.oracle.vectors import case_inputs, causes, hypotheses
from clear_ref.oracle.vectors.judged_function import Answer
from tests.helpers.golden_vectors import STORED

METHODS = ("grad_ascent", "grad_diff", "kl", "idk", "dpo", "npo", "scrub", "llmu", "rmu", "sku")
SHAPES = "plain,single,near,ignored,left"
PAIRS = hypotheses.pairs


def pairs_of(method):
    """Every composition of two known mistakes of a method: [(names, Computation)]."""
    known = [m for m in MISTAKES if method in m.methods and "paper" in m.semantics]
    known += [p for p in PEERS if method in p.methods and not p.is_meaning]
    found = []
    for i, first in enumerate(known):
        for second in known[i + 1 :]:
            both = first.compute.and_(second.compute)
            if both is not None:
                found.append(((first.name, second.name), both))
    return found


@cache
def asked_of(method):
    """The stored cases of a method, with every batch."""
    entries = case_inputs.chosen(STORED.entries, [method], ["paper"], SHAPES, "")
    return [case_inputs.ask(STORED, entry, True, False) for entry in entries]


@cache
def hypotheses_of(method):
    """The pairs that conform tries; each case is computed once for all compositions."""
    asked = asked_of(method)[0]
    return [
        hypotheses.Hypothesis(one.name, one.kind, _once(one.predict), one.coarse)
        for one in PAIRS(asked)
    ]


def _once(predict):
    results = {}

    def remembered(asked):
        id = asked.entry["id"]
        if id not in results:
            results[id] = predict(asked)
        return results[id]

    return remembered


def answers(method, both):
    """[Judged] of a composition; None if a loss is not finite or a case is not computed."""
    judged = []
    for asked in asked_of(method):
        entry = asked.entry
        with np.errstate(all="ignore"):
            try:
                result = both(method, "paper", entry["options"], asked.every)
            except (KeyError, TypeError):
                return None
        if not np.isfinite(result.loss):
            return None
        gradients = {name: result.gradients[name] for name in asked.batches}
        answer = Answer(result.loss, gradients, "float64", "float64")
        is_right = causes.Judge(asked.result, "float64").agrees(answer)
        judged.append(causes.Judged(asked, answer, "float64", is_right))
    return judged


def verdict(method, names, judged):
    """(verdict, what is named) of one composition; None if it passes every case."""
    if all(one.is_right for one in judged):
        return None
    with mock.patch.object(hypotheses, "pairs", lambda asked: hypotheses_of(method)):
        found = causes.causes(judged)
    cause = next(iter(found.values()))
    named = [cause.name, *cause.also]
    if " and ".join(sorted(names)) in named:
        return "exact", named
    if cause.kind == "place":
        return "unnamed", named
    return ("absorbed" if set(names) & set(named) else "false"), named


def measure(n, seed, methods=METHODS):
    """(Counter of verdicts, [(verdict, method, names, named)] of what is not exact)."""
    draws = random.Random(seed)
    counts = Counter()
    others = []
    while sum(counts.values()) - counts["absorbed"] < n:
        method = draws.choice(methods)
        names, both = draws.choice(pairs_of(method))
        judged = answers(method, both)
        found = judged and verdict(method, names, judged)
        if not found:
            continue
        counts[found[0]] += 1
        if found[0] != "exact":
            others.append((found[0], method, names, found[1]))
    return counts, others


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=16)
    arguments = parser.parse_args()
    counted, exceptions = measure(arguments.pairs, arguments.seed)
    for kind, method, names, named in sorted(exceptions):
        print(f"{kind:8} {method:12} {' + '.join(names)}: {', '.join(named)}")
    for kind in ("exact", "unnamed", "false"):
        print(f"{kind:8} {counted[kind]:4} {counted[kind] / arguments.pairs:7.1%}")
    print(f"absorbed {counted['absorbed']:4}, not among the {arguments.pairs}")
