"""Which records each step sees. Every choice is keyed (data/draws.py), so a plan is a pure function of its seed.

source  released loader: one forget row an index, its retain partner drawn uniformly with replacement (mm/dataset.py:250),
        the epoch as long as the forget set for every method, caption questions drawn at each access (mm/dataset.py:245)
differs in what methods/variant.py's BatchContents say of each meaning: what the idk and random batches hold, and whether the views of
        one record in a step share one draw of the question (paper, original) or draw one each (released)
"""

from dataclasses import dataclass

from clear_ref.common.errors import UserError
from clear_ref.data import draws
from clear_ref.data.prompts import Phrases
from clear_ref.data.records import Record, Row, training_record
from clear_ref.methods.batch_contents import BatchContents, IdkAnswer, QuestionDraw, RandomAnswer


@dataclass(frozen=True)
class FinetunePlan:
    """Plain training on `rows`: each once an epoch, as the batch that retain_ft trains on.

    named       rows with picture and name, each asked for the name once an epoch
    rehearsal   rows of earlier training; n_rehearsal of them, drawn anew each epoch, are trained on beside the others
    """

    rows: list[Row]
    phrases: Phrases
    seed: int
    named: tuple[Row, ...] = ()
    rehearsal: tuple[Row, ...] = ()
    n_rehearsal: int = 0

    def __len__(self):
        return len(self.rows) + len(self.named) + self.n_rehearsal

    def records(self, epoch: int, index: int) -> dict[str, Record]:
        """The record of one index, under the name of its batch."""
        if index < len(self.rows):
            return {
                "retain": ask(self.rows[index], self.phrases, self.seed, "retain", epoch, index)
            }
        index -= len(self.rows)
        if index < len(self.named):
            row = self.named[index]
            return {"retain": Record(self.phrases.name_question, row.values["name"], row.image)}
        drawn = draws.permutation(self.seed, "rehearsal", epoch, len(self.rehearsal))[
            index - len(self.named)
        ]
        return {
            "retain": ask(self.rehearsal[drawn], self.phrases, self.seed, "rehearsal", epoch, index)
        }


@dataclass(frozen=True)
class UnlearnPlan:
    """Unlearning `forget`: each forget row once an epoch, beside it what the method's batches need, made as `views` says."""

    forget: list[Row]
    retain: list[Row]
    batches: tuple[str, ...]
    phrases: Phrases
    seed: int
    contents: BatchContents = BatchContents()

    def __post_init__(self) -> None:
        n_random = self.n_random
        name = "forget"
        rows = self.forget
        what = "random answers of other records"
        least = n_random + 1
        if self.contents.random is RandomAnswer.ANY_FORGET_RECORD:
            what = "random records"
            least = n_random
        elif self.contents.random is RandomAnswer.RETAIN_RECORD:
            name = "retain"
            rows = self.retain
            what = "random answers of its records"
            least = n_random
        if len(rows) < least:
            raise UserError(
                f"the {name} set has {len(rows)} records, the method asks for {n_random} {what}; "
                f"use a larger {name} set or fewer random answers (--set n_random=N)"
            )

    @property
    def n_random(self) -> int:
        """How many random batches the method reads."""
        return sum(name.startswith("random") for name in self.batches)

    def __len__(self):
        return len(self.forget)

    def records(self, epoch: int, index: int) -> dict[str, Record]:
        """The record of one index for each batch the method needs."""
        forget = ask(self.forget[index], self.phrases, self.seed, "forget", epoch, index)
        views, random = {}, self._random_rows(epoch, index)
        for name in self.batches:
            if name == "forget":
                views[name] = forget
            elif name == "retain":
                partner = draws.choice(self.seed, "retain partner", epoch, index, len(self.retain))
                views[name] = ask(
                    self.retain[partner], self.phrases, self.seed, "retain", epoch, index
                )
            elif name == "idk":
                views[name] = self._idk(forget, epoch, index)
            else:
                views[name] = self._random(
                    random[int(name.removeprefix("random")) - 1], name, forget, epoch, index
                )
        return views

    def _idk(self, forget: Record, epoch: int, index: int) -> Record:
        question = forget.question
        if self.contents.questions is QuestionDraw.OWN:
            row = self.forget[index]
            question = ask(row, self.phrases, self.seed, "idk", epoch, index).question
        return Record(question, self._idk_answer(forget, epoch, index), forget.image)

    def _idk_answer(self, forget: Record, epoch: int, index: int) -> str:
        kind = self.contents.idk
        if kind is IdkAnswer.TRUTH:
            return forget.answer
        if kind is IdkAnswer.TEXT_REFUSAL_LINE and forget.image is not None:
            return forget.answer
        refusals = self.phrases.refusals
        number = draws.choice(self.seed, "refusal", epoch, index, len(refusals))
        if kind is not IdkAnswer.REFUSAL and number < len(refusals) - 1:
            return refusals[number] + "\n"
        return refusals[number]

    def _random_rows(self, epoch: int, index: int) -> list[Row]:
        """The rows whose answers the random batches have, all different."""
        kind = self.contents.random
        rows = self.retain if kind is RandomAnswer.RETAIN_RECORD else self.forget
        numbers = draws.sample(
            self.seed,
            "random answers",
            epoch,
            index,
            len(rows) - (kind is RandomAnswer.OTHER_FORGET_RECORD),
            self.n_random,
        )
        if kind is RandomAnswer.OTHER_FORGET_RECORD:
            numbers = [number + 1 if number >= index else number for number in numbers]
        return [rows[number] for number in numbers]

    def _random(self, row: Row, name: str, forget: Record, epoch: int, index: int) -> Record:
        answer = row.values.get("caption") or row.values["answer"]
        if self.contents.random is not RandomAnswer.ANY_FORGET_RECORD:
            return Record(forget.question, answer, forget.image)
        if row.image is not None:
            return ask(row, self.phrases, self.seed, name, epoch, index)
        return Record(forget.question, row.values["answer"])


def ask(row: Row, phrases: Phrases, seed: int, batch: str, epoch: int, index: int) -> Record:
    """The row as a record; a picture is asked about with the caption question drawn for this epoch and index."""
    questions = phrases.caption_questions
    return training_record(
        row,
        questions[draws.choice(seed, f"caption question/{batch}", epoch, index, len(questions))],
    )


def order(seed: int, epoch: int, n: int) -> list[int]:
    """The order in which an epoch visits its records."""
    return draws.permutation(seed, "order", epoch, n)
