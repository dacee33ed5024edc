"""Variant: one method under one semantics: its loss, and what training with it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clear_ref import losses

from .batch_contents import RELEASED_IDK, BatchContents, IdkAnswer, released_contents
from .loss import Loss

Batches = dict[str, "losses.BatchRows"]  # by batch name: forget, retain, idk, random1, ...

# (batches, options) -> Loss. The options are of the variant's own class, so their type is Any here.
LossFunction = Callable[[Batches, Any], Loss]


@dataclass(frozen=True)
class Need:
    """What a loss reads of one batch.

    rows     row sets of the logits, or with `hidden` of the hidden states: answer, attention, all
    teacher  the loss also reads the teacher's logits, or with `hidden` its hidden states
    hidden   the loss reads hidden states of the layer that the options name, instead of logits
    """

    rows: tuple[str, ...] = ("answer",)
    teacher: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Phase:
    """One of the passes over the records that an epoch makes in turn.

    loss    (batches, options) -> Loss, from the batches of `needs` alone
    needs   {batch name: Need}
    epochs  the phase is part of this many first epochs; None: of every epoch
    """

    name: str
    loss: LossFunction
    needs: dict[str, Need]
    epochs: int | None = None


@dataclass(frozen=True)
class Variant:
    """One method under one semantics.

    loss      (batches, options) -> Loss, the batches by name
    needs     {batch name: Need}, or a function of the options that returns it
    options   the class of the options
    second_stage  what is done with the weights after training: None, or "negate_delta"
              (2 theta_0 - theta_1)
    reference_loss  (batches, options) -> Loss of a first stage, from the idk batch alone. It tunes
              the teacher if the options have reference = idk. None: the teacher is always the
              model before unlearning
    contents  what the idk and random batches hold
    by_batch  False: reductions divide by the totals of the optimiser step. True: each batch of
              batch_size records is padded together and gives a loss of its own; the step takes
              the mean of these losses
    mask      label mask: "answer", or "released". loop/unlearn.py:label_mask uses "released" for
              Qwen2-VL and Qwen2.5-VL only; LLaVA gets "answer"
    phases    options -> the phases of an epoch, whose losses add up to `loss`; None: one pass
              with `loss`
    targets   options -> the layers that are trained, by the last parts of their names; None: those
              of the recipe
    held      (batches, constants, options) -> Loss, for a loss with a factor or a target that is
              computed from the student and gets no gradient: it is computed from `constants`, the
              same batches before the weights move, so the slope of this function is the gradient.
              None: `loss` has no such part
    prepare_options  (options, number of records in the first batch) -> options of the run;
              None: unchanged
    """

    loss: LossFunction
    needs: dict[str, Need] | Callable[[Any], dict[str, Need]]
    options: type
    second_stage: str | None = None
    reference_loss: LossFunction | None = None
    contents: BatchContents = BatchContents()
    by_batch: bool = False
    mask: str = "answer"
    phases: Callable[[Any], tuple[Phase, ...]] | None = None
    targets: Callable[[Any], list[str]] | None = None
    held: Callable[[Batches, Batches, Any], Loss] | None = None
    prepare_options: Callable[[Any, int], Any] | None = None

    @classmethod
    def released(
        cls,
        loss: LossFunction,
        needs: dict[str, Need] | Callable[[Any], dict[str, Need]],
        options: type,
        idk: IdkAnswer = IdkAnswer.TRUTH,
        prepare_options: Callable[[Any, int], Any] | None = None,
    ) -> Variant:
        """A Variant of the released code: the mean of batches, its label mask, its batches."""
        return cls(
            loss,
            needs,
            options,
            contents=released_contents(idk),
            by_batch=True,
            mask="released",
            prepare_options=prepare_options,
        )

    @classmethod
    def released_by_date(
        cls, loss: LossFunction, needs: dict[str, Need], options: type
    ) -> dict[str, Variant]:
        """{name: Variant} of the released code for a loss that reads the idk batch.

        The idk batch had other answers at each date (RELEASED_IDK); the loss is the same.
        """
        return {
            f"released{date}": cls.released(loss, needs, options, idk)
            for date, idk in RELEASED_IDK.items()
        }

    @classmethod
    def released_nlp(
        cls, loss: LossFunction, needs: dict[str, Need], options: type
    ) -> dict[str, Variant]:
        """{name: Variant} of the authors' text-only code, nlp/: the mean of batches.

        Its idk batch refuses, and its label mask covers answers alone.
        """
        return {"released@nlp": cls(loss, needs, options, by_batch=True)}

    def needs_of(self, options: Any) -> dict[str, Need]:
        """{batch name: Need} under these options."""
        if callable(self.needs):
            return self.needs(options)
        return dict(self.needs)

    def phases_of(self, options: Any) -> tuple[Phase, ...]:
        """The phases of an epoch; () if an epoch is one pass with the whole loss."""
        if self.phases is None:
            return ()
        return self.phases(options)


def random_batches(n: int) -> list[str]:
    """The names of n batches of random answers: random1, random2, ..."""
    return [f"random{k}" for k in range(1, n + 1)]
