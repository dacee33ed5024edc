"""Wrong and unusual tensors for the token terms: an error message or the right result, no crash.

The cases run in a process of their own, so that a crash is a failure with a case number, not the
end of the test run.

Run: python -m pytest tests/losses/test_kernel_hostile_arguments.py
One case: python tests/losses/test_kernel_hostile_arguments.py 1234 1
"""

import random
import subprocess
import sys

import pytest
import torch

from clear_ref.common.errors import LabelError, ShapeError, UserError
from clear_ref.losses import formulas, native
from clear_ref.losses.terms import IGNORE, token_terms

pytestmark = pytest.mark.skipif(
    not native.built(), reason="clear_ref was installed without the compiled kernel"
)

CASES, WORKERS = 10_000, 2
REFUSALS = (ShapeError, LabelError, UserError, RuntimeError, TypeError, NotImplementedError)
OURS = (ShapeError, LabelError, UserError)
NAMES = {
    "nll": formulas.NLL,
    "entropy": formulas.ENTROPY,
    "lse": formulas.LSE,
    "teacher_nll": formulas.TEACHER_NLL,
    "teacher_entropy": formulas.TEACHER_ENTROPY,
    "kl_teacher_student": formulas.KL_TEACHER_STUDENT,
    "kl_student_teacher": formulas.KL_STUDENT_TEACHER,
}


class Subclass(torch.Tensor):
    pass


# An independent computation in float64.


def truth(student, labels, teacher, upstream, skip_ignored, entropy):
    """(table by name, gradient) by log_softmax and explicit derivatives; upstream [N_STATS, n]."""
    z = torch.log_softmax(student.double(), -1)
    p, ignored = z.exp(), labels == IGNORE
    dead = ignored if skip_ignored else torch.zeros_like(ignored)
    known = (labels >= 0) & (labels < student.shape[1])
    onehot = torch.zeros_like(z)
    onehot[known, labels[known]] = 1

    def nll(log):
        return (-(onehot * log).sum(-1)).masked_fill(~known, torch.nan).masked_fill(ignored, 0)

    zero = torch.zeros(len(labels), dtype=torch.float64)
    found = {
        "nll": nll(z),
        "lse": torch.logsumexp(student.double(), -1),
        "entropy": -(p * z).sum(-1),
    }
    u = {name: upstream[row].double()[:, None] for name, row in NAMES.items()}
    c = u["nll"].masked_fill(ignored[:, None], 0)
    slope = c * (p - onehot) + u["lse"] * p - u["entropy"] * p * (z + found["entropy"][:, None])
    if teacher is not None:
        t = torch.log_softmax(teacher.double(), -1)
        q = t.exp()
        found |= {
            "teacher_nll": nll(t),
            "teacher_entropy": -(q * t).sum(-1),
            "kl_teacher_student": (q * (t - z)).sum(-1),
            "kl_student_teacher": (p * (z - t)).sum(-1),
        }
        slope = slope + u["kl_teacher_student"] * (p - q)
        slope = slope + u["kl_student_teacher"] * p * (z - t - found["kl_student_teacher"][:, None])
    else:
        found |= dict.fromkeys(
            ("teacher_nll", "teacher_entropy", "kl_teacher_student", "kl_student_teacher"), zero
        )
    slope = slope.masked_fill((~known & ~ignored)[:, None] & (c != 0), torch.nan)
    if not entropy:
        found |= {"entropy": zero, "teacher_entropy": zero}
    return {name: column.masked_fill(dead, 0) for name, column in found.items()}, slope.masked_fill(
        dead[:, None], 0
    )


def true_table(student, labels, teacher, skip_ignored):
    """The table that `dlogits` takes, in the accumulation dtype, from float64."""
    found, _ = truth(
        student,
        labels.clamp(0),
        teacher,
        torch.zeros(formulas.N_STATS, len(labels)),
        skip_ignored,
        True,
    )
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    table = torch.zeros(formulas.N_STATS, len(labels), dtype=wide)
    for name, row in NAMES.items():
        table[row] = found[name].to(wide)
    parts = [(student, formulas.LSE, formulas.LSE_LOW)]
    parts += [] if teacher is None else [(teacher, formulas.TEACHER_LSE, formulas.TEACHER_LSE_LOW)]
    for logits, high, low in parts:
        lse = torch.logsumexp(logits.double(), -1)
        table[high] = lse.to(wide)
        table[low] = (lse - table[high].double()).to(wide)
    z, p, top = student.double(), student.double().softmax(-1), student.argmax(1, keepdim=True)
    table[formulas.TOP] = z.gather(1, top).squeeze(1).to(wide)
    table[formulas.DROP] = (p * (z - z.gather(1, top))).sum(-1).to(wide)
    if teacher is not None:
        t = teacher.double()
        table[formulas.TEACHER_AT_TOP] = t.gather(1, top).squeeze(1).to(wide)
        table[formulas.GAP] = (p * ((z - t) - (z - t).gather(1, top))).sum(-1).to(wide)
    return table


# Odd but right: the same values in another form.


def padded(x):
    wide = torch.full((x.shape[0], x.shape[1] + 5), 7, dtype=x.dtype)
    wide[:, 3:-2] = x
    return wide[:, 3:-2]


def negated(x):
    """x as a view with the negative bit, as x.conj().imag is one."""
    wide = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    view = torch.complex(torch.zeros_like(x, dtype=wide), -x.to(wide)).conj().imag
    assert view.is_neg()
    return view if x.dtype == wide else torch._neg_view(-x)


RIGHT = {
    "plain": lambda x: x,
    "padded": padded,
    "transposed": lambda x: x.T.contiguous().T,
    "every second column": lambda x: torch.stack([x, x], -1).flatten(1)[:, ::2],
    "negated": negated,
    "requires grad": lambda x: x.detach().clone().requires_grad_(),
    "subclass": lambda x: x.as_subclass(Subclass),
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "shifted storage": lambda x: torch.cat(
        [x.flatten()[:0], torch.zeros(1, dtype=x.dtype), x.flatten()]
    )[1:].view(x.shape),
}
RIGHT_LABELS = {
    "plain": lambda y: y,
    "strided": lambda y: torch.stack([y, torch.full_like(y, 10**9)], -1)[:, 0],
    "subclass": lambda y: y.as_subclass(Subclass),
    "negated": lambda y: torch._neg_view(-y),
    "shifted storage": lambda y: torch.cat([torch.full((1,), -7), y])[1:],
}


def resized_away(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


# Wrong. Some have nothing wrong when there is nothing in them (n = 0): see `wrong_here`.
WRONG = {
    "0-d": lambda x: x.sum(),
    "1-d": lambda x: x.flatten(),
    "3-d": lambda x: x[None],
    "no columns": lambda x: x[:, :0],
    "a row more": lambda x: torch.cat([x, torch.ones(1, x.shape[1], dtype=x.dtype)]),
    "bool": lambda x: x.bool(),
    "int64": lambda x: x.long(),
    "int8": lambda x: x.to(torch.int8),
    "complex64": lambda x: x.to(torch.complex64),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "meta": lambda x: x.to("meta"),
    "storage gone": resized_away,
    "mkldnn": lambda x: x.float().to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor([x, x]),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
}
WRONG_TEACHER = {
    **WRONG,
    "a column more": lambda x: torch.cat([x, x[:, :1]], 1),
    "a column": lambda x: torch.cat([x, x], 1),
}
WRONG_LABELS = {
    "0-d": lambda y: y.sum(),
    "2-d": lambda y: y[:, None],
    "one more": lambda y: torch.cat([y, y.new_zeros(1)]),
    "int32": lambda y: y.int(),
    "float": lambda y: y.float(),
    "bool": lambda y: y.bool(),
    "sparse": lambda y: y.to_sparse(),
    "meta": lambda y: y.to("meta"),
    "storage gone": resized_away,
    "out of range": lambda y: y.new_full(y.shape, 10**6),
    "negative": lambda y: y.new_full(y.shape, -1),
    "huge": lambda y: y.new_full(y.shape, -(2**63)),
}
WRONG_SCALARS = {
    "a row less": lambda x: x[:9],
    "one more": lambda x: (
        torch.cat([x, x[:, :1]], 1)
        if x.shape[1]
        else torch.ones(formulas.N_STATS, 1, dtype=x.dtype)
    ),
    "1-d": lambda x: x.flatten(),
    "bfloat16": lambda x: x.bfloat16(),
    "int64": lambda x: x.long(),
    "other float": lambda x: x.to(torch.float32 if x.dtype == torch.float64 else torch.float64),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "storage gone": resized_away,
}
RIGHT_SCALARS = {
    "plain": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "padded": padded,
    "negated": negated,
    "subclass": lambda x: x.as_subclass(Subclass),
}
EMPTY_IS_FINE = ("storage gone", "out of range", "negative", "huge")


class Case:
    """One random case: the tensors, what was done to them, and whether that is wrong."""

    def __init__(self, seed):
        draw = self.draw = random.Random(seed)
        g = torch.Generator().manual_seed(seed)
        n, vocabulary = (
            draw.choice([0, 1, 1, 2, 3, 4, 7, 17]),
            draw.choice([1, 2, 3, 5, 15, 16, 17, 33, 64, 70]),
        )
        dtypes = [torch.float32, torch.bfloat16, torch.float16] * 3 + [torch.float64]
        self.operator = draw.choice(["terms", "stats", "dlogits"])
        dtype = draw.choice(dtypes)
        other = draw.choice(dtypes) if self.operator == "terms" and draw.random() < 0.3 else dtype
        student = 3 * torch.randn(n, vocabulary, generator=g).to(dtype)
        self.teacher = (
            None if draw.random() < 0.25 else 3 * torch.randn(n, vocabulary, generator=g).to(other)
        )
        self.labels = torch.randint(0, vocabulary, (n,), generator=g)
        self.labels[torch.rand(n, generator=g) < 0.3] = IGNORE
        self.student, self.skip_ignored, self.entropy = (
            student,
            draw.random() < 0.3,
            draw.random() < 0.7,
        )
        self.check_labels = draw.random() < 0.3
        self.double = torch.float64 in (dtype, *(() if self.teacher is None else (other,)))
        if n and draw.random() < 0.1:  # one row in memory, or a row stride of 0
            self.student = self.student[:1].expand(n, -1)
        self.upstream = torch.randn(formulas.N_STATS, n, generator=g) * (
            torch.rand(n, generator=g) < 0.8
        )
        self.upstream = self.upstream.to(torch.float64 if dtype == torch.float64 else torch.float32)
        self.table = None
        if self.operator == "dlogits":
            self.table = true_table(self.student, self.labels, self.teacher, self.skip_ignored)
        self.wanted = truth(
            self.student, self.labels, self.teacher, self.upstream, self.skip_ignored, self.entropy
        )
        self.clean = self.student, self.teacher, self.upstream
        self.n, self.done, self.wrong = n, [], False
        self.tolerance = torch.finfo(dtype).eps / 2
        names = ["student", "labels"] + ["teacher"] * (self.teacher is not None)
        names += ["table", "upstream"] * (self.operator == "dlogits")
        for name in names:
            if draw.random() < 0.4:
                kinds = {"student": RIGHT, "teacher": RIGHT, "labels": RIGHT_LABELS}.get(
                    name, RIGHT_SCALARS
                )
                self.change(name, kinds, False)
        if draw.random() < 0.55:
            for name in draw.sample(names, 1 if draw.random() < 0.8 or len(names) < 3 else 2):
                kinds = {"student": WRONG, "teacher": WRONG_TEACHER, "labels": WRONG_LABELS}.get(
                    name, WRONG_SCALARS
                )
                self.change(name, kinds, True)

    def change(self, name, kinds, wrong):
        kind = self.draw.choice(list(kinds))
        try:
            changed = kinds[kind](getattr(self, name))
        except REFUSALS:
            return  # torch cannot make this one of that
        setattr(self, name, changed)
        self.done.append(f"{name}: {kind}")
        if not wrong or (kind in EMPTY_IS_FINE and self.n == 0):
            return
        if (
            name == "labels"
            and self.operator == "dlogits"
            and kind in ("out of range", "negative", "huge")
        ):
            student, teacher, upstream = self.clean
            # NaN where c != 0: no error
            self.wanted = truth(
                student, self.labels, teacher, upstream, self.skip_ignored, self.entropy
            )
            return
        self.wrong = True

    def __str__(self):
        return f"{self.operator}, {self.student.dtype}, {self.done}"

    def __call__(self, impl):
        """(name, found, wanted, bound) of every result. Bounds: values up to 32 in fp32, sums and
        log p of a few roundings each, 32 * 2^-22; a gradient has a factor of at most 5 upstreams,
        each below 5 times values below 32, in fp32, and is rounded once to its dtype.
        """
        wanted, slope = self.wanted
        if self.operator == "terms":
            found = token_terms(
                self.student,
                self.labels,
                self.teacher,
                impl=impl,
                entropy=self.entropy,
                skip_ignored=self.skip_ignored,
                check_labels=self.check_labels,
            )
            results = [
                (name, getattr(found, name), wanted[name], 32 * 2**-22)
                for name in NAMES
                if getattr(found, name) is not None
            ]
            if self.student.requires_grad and self.student.is_leaf:
                weights = self.upstream
                sum(
                    (getattr(found, name) * weights[row]).sum()
                    for name, row in NAMES.items()
                    if getattr(found, name) is not None and getattr(found, name).requires_grad
                ).backward()
                if self.entropy or not weights[formulas.ENTROPY].any():
                    results.append(("gradient", self.student.grad, slope, 1e-3))
                self.student.grad = None
            return results
        if self.operator == "stats":
            table = torch.ops.clear_ref.token_stats(
                self.student,
                self.teacher,
                self.labels,
                self.skip_ignored,
                self.entropy,
                impl == "native",
            )
            return [(name, table[row], wanted[name], 32 * 2**-22) for name, row in NAMES.items()]
        found = torch.ops.clear_ref.token_dlogits(
            self.student,
            self.teacher,
            self.labels,
            self.table,
            self.upstream,
            self.skip_ignored,
            impl == "native",
        )
        assert found.is_contiguous() and found.dtype == self.student.dtype
        return [("gradient", found, slope, 1e-3)]


def close(found, wanted, bound, rounding):
    found = found.detach().as_subclass(torch.Tensor).double()
    if found.shape != wanted.shape or not torch.equal(found.isnan(), wanted.isnan()):
        return False
    return bool(
        ((found - wanted).abs().nan_to_num() <= bound + rounding * wanted.abs().nan_to_num()).all()
    )


def outcome(case, impl):
    """("refused", type, text) or ("done", what is wrong with the results)."""
    try:
        results = case(impl)
    except REFUSALS as error:
        return "refused", type(error), str(error)
    return "done", [
        name
        for name, found, wanted, bound in results
        if not close(found, wanted, bound, case.tolerance if name == "gradient" else 2**-23)
    ]


def judge(case):
    """What is wrong with what the two implementations do, or None."""
    first, second = outcome(case, "native"), outcome(case, "torch")
    for impl, found in (("native", first), ("torch", second)):
        if found[0] == "done" and (case.wrong or found[1]):
            return f"{impl} accepts it" if case.wrong else f"{impl} is wrong: {found[1]}"
        if found[0] == "refused" and issubclass(found[1], OURS) and "\n" in found[2]:
            return f"{impl} needs more than a line: {found[2]!r}"
    if (
        case.double and first[0] == "refused"
    ):  # native knows no float64, and says so or names what else is wrong
        return None if second[0] == "refused" or not case.wrong else f"torch accepts it: {second}"
    if not case.wrong and "refused" in (first[0], second[0]):
        return f"refused: {first} {second}"
    return (
        None
        if first[:1] == second[:1] and (first[0] == "done" or first == second)
        else f"not alike: {first} {second}"
    )


def main(start, count):
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(1)
    accepted = failures = 0
    for seed in range(start, start + count):
        print("at", seed, file=sys.stderr)
        case = Case(seed)
        accepted += not case.wrong
        complaint = judge(case)
        if complaint:
            failures += 1
            print(f"case {seed} ({case}): {complaint}")
    print(f"{accepted} right, {count - accepted} wrong, {failures} failures")


@pytest.mark.slow
def test_ten_thousand_cases_are_refused_in_words_or_computed_right():
    size = CASES // WORKERS
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-X",
                "faulthandler",
                "-W",
                "ignore",
                __file__,
                str(i * size),
                str(size),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(WORKERS)
    ]
    results = [worker.communicate() for worker in workers]
    for worker, (out, errors) in zip(workers, results, strict=True):
        assert worker.returncode == 0, (
            f"died with {worker.returncode}:\n{out[-2000:]}\n{errors[-2000:]}"
        )
        right, wrong, failures = (int(part.split()[0]) for part in out.splitlines()[-1].split(", "))
        assert failures == 0, out[-4000:]
        assert (
            right > size / 4 and wrong > size / 4
        )  # the cases are neither all one nor all the other


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
