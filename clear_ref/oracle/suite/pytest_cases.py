"""Golden vectors as parametrised cases of pytest; pytest itself is not imported.

from clear_ref.oracle import cases, check

@pytest.mark.parametrize("case", cases("npo,kl"), ids=str)
def test_my_losses(case):
    check(case, my_loss(case.method, case.batches, case.options))
"""

from dataclasses import dataclass, field
from functools import cache
from typing import NoReturn

from clear_ref.methods import LOSSES, METHODS, SEMANTICS
from clear_ref.methods.table import DEFAULT_SEMANTICS
from clear_ref.oracle.reference.rows import Batches
from clear_ref.oracle.vectors import conform_text, golden, judged_function, vector_files
from clear_ref.oracle.vectors.case_inputs import Asked, ask, chosen
from clear_ref.oracle.vectors.conform import names_in
from clear_ref.oracle.vectors.judged_function import Answer, Arguments, JudgedFunction
from clear_ref.oracle.vectors.vector_set import Entry, Vectors
from clear_ref.oracle.vectors.verdict import explain, judge


@dataclass
class SuiteCase:
    """One case for a test; str(case) is its id, such as npo/paper/plain.

    `batches` are made when they are first read, and again after `check`.
    """

    _vectors: Vectors = field(repr=False)
    _entry: Entry = field(repr=False)
    _function: JudgedFunction = field(repr=False)
    _batches: Arguments | None = field(default=None, repr=False)
    _fingerprint: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self._entry["id"]

    @property
    def method(self) -> str:
        """Such as npo."""
        return self._entry["method"]

    @property
    def options(self) -> dict[str, str | int | float]:
        """Every option of the semantics, and "semantics", their name."""
        return judged_function.options_of(self._entry)

    @property
    def batches(self) -> Arguments:
        """{batch: {array name: array}}, as `conform` hands them over; tensors require gradients."""
        if self._batches is None:
            self._batches = self._function.arguments(self._asked().batches)
            self._fingerprint = judged_function.fingerprint(self._batches)
        return self._batches

    def _asked(self) -> Asked:
        return ask(self._vectors, self._entry, all_batches=False, pad=False)


@dataclass(frozen=True)
class _Given(JudgedFunction):
    """A JudgedFunction whose result is there already, computed from a case's batches."""

    arguments_given: Arguments = field(default_factory=dict)
    fingerprint_before: str = ""
    result: object = None

    def __call__(self, entry: Entry, batches: Batches) -> Answer:
        """The Answer that the result is."""
        return judged_function.answer_of(
            self.result, entry, batches, self.arguments_given, self.fingerprint_before
        )


def cases(
    methods: str = "",
    semantics: str = DEFAULT_SEMANTICS,
    shapes: str = "",
    only: str = "",
    *,
    dtype: str = "float64",
    framework: str = "torch",
    arithmetic: str = "",
    vectors: str = "",
) -> list[SuiteCase]:
    """The cases of these methods, semantics, shapes and ids, for pytest.mark.parametrize.

    The arguments are the options of `conform` with the same names. `vectors` is a directory of
    golden vectors; without it the compact set is built, once, in about two seconds.
    raises  UserError for an unknown name, or if there is no such case
    """
    asked_methods = names_in("methods", methods or ",".join(METHODS), LOSSES)
    asked = list(SEMANTICS) if semantics == "all" else names_in("semantics", semantics, SEMANTICS)
    function = judged_function.judged("check", _not_called, framework, dtype, arithmetic)
    stored = _vectors(vectors)
    entries = chosen(stored.entries, asked_methods, asked, shapes, only)
    return [SuiteCase(stored, entry, function) for entry in entries]


@cache
def _vectors(directory: str) -> Vectors:
    return vector_files.read(directory) if directory else golden.build(mistakes=False)


def _not_called(*_: object) -> NoReturn:
    raise AssertionError("the result of a SuiteCase is given, not computed")


def check(case: SuiteCase, result: object, gradient: bool = True) -> None:
    """Nothing if a result is right; it was computed from `case.batches` and `case.options`.

    result    loss, or (loss, {batch: gradient}); a loss with a grad_fn is differentiated
    gradient  False: a loss without a gradient is enough
    raises    AssertionError with the numbers and what explains them in this case; other cases may
              exclude that (`conform` looks at all)
    """
    arguments = case.batches
    function = case._function
    given = _Given(
        function.name,
        function.function,
        function.framework,
        function.dtype,
        function.arithmetic,
        arguments,
        case._fingerprint,
        result,
    )
    case._batches = None
    verdict, judged = judge(case._asked(), given)
    if judged is not None:
        explain([verdict], [judged], strict=True)
    if verdict["verdict"] == "loss_only" and gradient:
        raise AssertionError(
            f"{case}: the loss is right, but it has no gradient; expected one, or gradient=False"
        )
    if verdict["verdict"] == "fail":
        loss = "no loss" if verdict["loss"] is None else f"loss {verdict['loss']:.6g}"
        why = conform_text.explanation(verdict)
        raise AssertionError(f"{case}: {loss}, expected {verdict['expected']:.6g}{why}")
