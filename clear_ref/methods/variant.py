"""Variant, one meaning of a method: its loss, and everything that training it in this meaning needs to know."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """What a method reads of one batch.

    rows     row sets: answer | attention | all, of the logits, or with `hidden` of the hidden states
    teacher  the same of the teacher
    hidden   hidden states of the layer that the options name, instead of logits
    """

    rows: tuple[str, ...] = ("answer",)
    teacher: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Views:
    """What the records of each batch hold; loop/plan.py makes them.

    idk        refusal | refusal_line: with its line end | text_refusal_line: that for texts | truth: the forget answer
    random     others: the forget question, another forget record's answer | retain: a retain record's | rows: any forget
               record, its own included; a picture keeps its own caption, a text takes the forget question
    questions  shared: one draw of a picture's caption question for all views of a record | own: a draw for each view
    """

    idk: str = "refusal"
    random: str = "others"
    questions: str = "shared"


@dataclass(frozen=True)
class Phase:
    """One of the passes that an epoch makes over its records in turn.

    loss    (batches, options) -> Loss, on `needs` alone: {batch name: Need}
    epochs  it is part of the first so many epochs; None: of every epoch
    """

    name: str
    loss: Callable
    needs: dict[str, Need]
    epochs: int | None = None


@dataclass(frozen=True)
class Variant:
    """One meaning of a method.

    loss      (batches, options) -> Loss, batches by batch name
    needs     {batch name: Need}, or a function of the options that returns it; options: the class of them
    finish    what is done with the weights after training: None, or "negate_delta" (2 theta_0 - theta_1)
    reference_loss  (batches, options) -> Loss of a first stage, on the idk batch alone, that tunes the teacher where
              the options say reference = idk; None: the teacher is always the model before unlearning
    views     what each batch's records are
    by_batch  False: reductions divide by the step's totals. True: each batch of batch_size records, padded together, is
              a loss of its own, and the step takes the mean of them
    mask      label mask: answer, or released (loop/unlearn.py: label_mask)
    phases    options -> the Phases of an epoch, whose losses add up to `loss`; None: one pass with `loss`
    targets   options -> the layers that are trained, by the last parts of their names; None: as the recipe says
    begin     (options, number of records in the first batch) -> options of the run; None: as they are
    """

    loss: Callable
    needs: dict[str, Need] | Callable
    options: type
    finish: str | None = None
    reference_loss: Callable | None = None
    views: Views = Views()
    by_batch: bool = False
    mask: str = "answer"
    phases: Callable | None = None
    targets: Callable | None = None
    begin: Callable | None = None

    def needs_of(self, options) -> dict[str, Need]:
        """{batch name: Need} under these options."""
        return self.needs(options) if callable(self.needs) else dict(self.needs)

    def phases_of(self, options) -> tuple[Phase, ...]:
        """The phases of an epoch; none: the whole loss in one pass."""
        return () if self.phases is None else self.phases(options)


def released(loss, needs, options, **differing) -> Variant:
    """A Variant of the released code at its head: each batch a mean, its label mask, its views; or with what differs."""
    usual = {
        "by_batch": True,
        "mask": "released",
        "views": Views(idk="truth", random="rows", questions="own"),
    }
    return Variant(loss, needs, options, **{**usual, **differing})


def released_by_date(loss, needs, options) -> dict[str, Variant]:
    """{name: Variant} of the released code for a method that reads the idk batch, which meant something else at each date."""
    views = {"": "truth", "@2024-12-10": "refusal_line", "@2024-10-23": "text_refusal_line"}
    return {
        f"released{date}": released(
            loss, needs, options, views=Views(idk=idk, random="rows", questions="own")
        )
        for date, idk in views.items()
    }


def random_batches(n) -> list[str]:
    """The names of n batches of random answers."""
    return [f"random{k}" for k in range(1, n + 1)]
