"""The records that each step sees. Every choice is keyed (data/draws.py): a function of the seed.

source  the released loader (CLEAR mm/dataset.py:245-250 at bb14c96): one forget row an index, its
        retain partner drawn uniformly with replacement, the epoch as long as the forget set for
        every method, caption questions drawn at each access
differs under each semantics as methods/batch_contents.py says: what the idk and random batches
        hold, and whether the records made from one forget record share one draw of the caption
        question (paper, original) or have a draw each (released)
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

    named        rows with picture and name; once an epoch each is trained on with the name question
    rehearsal    rows of earlier training; n_rehearsal of them, drawn anew for each epoch, are
                 trained on too
    """

    rows: list[Row]
    phrases: Phrases
    seed: int
    named: tuple[Row, ...] = ()
    rehearsal: tuple[Row, ...] = ()
    n_rehearsal: int = 0

    def __len__(self) -> int:
        return len(self.rows) + len(self.named) + self.n_rehearsal

    def records(self, epoch: int, index: int) -> dict[str, Record]:
        """The record of one index, under the name of its batch."""
        return {"retain": self._record(epoch, index)}

    def row_of(self, batch: str, epoch: int, index: int) -> Row:
        """The data row from which the record of one index is made."""
        if index < len(self.rows):
            return self.rows[index]
        index -= len(self.rows)
        if index < len(self.named):
            return self.named[index]
        shuffled = draws.permutation(self.seed, "rehearsal", epoch, len(self.rehearsal))
        return self.rehearsal[shuffled[index - len(self.named)]]

    def _record(self, epoch: int, index: int) -> Record:
        row = self.row_of("retain", epoch, index)
        if index < len(self.rows):
            return ask(row, self.phrases, self.seed, "retain", epoch, index)
        index -= len(self.rows)
        if index < len(self.named):
            return Record(self.phrases.name_question, row.values["name"], row.image)
        return ask(row, self.phrases, self.seed, "rehearsal", epoch, index)


@dataclass(frozen=True)
class UnlearnPlan:
    """Unlearning: each forget row once an epoch, with the records of the method's other batches.

    batches   names of the batches that the method reads
    contents  what the idk and random batches hold
    """

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

    def __len__(self) -> int:
        return len(self.forget)

    def records(self, epoch: int, index: int) -> dict[str, Record]:
        """The record of one index for each batch that the method reads."""
        forget = ask(self.forget[index], self.phrases, self.seed, "forget", epoch, index)
        random_rows = self._random_rows(epoch, index)
        records = {}
        for name in self.batches:
            if name == "forget":
                records[name] = forget
            elif name == "retain":
                records[name] = self._retain(epoch, index)
            elif name == "idk":
                records[name] = self._idk(forget, epoch, index)
            else:
                row = random_rows[int(name.removeprefix("random")) - 1]
                records[name] = self._random(row, name, forget, epoch, index)
        return records

    def row_of(self, batch: str, epoch: int, index: int) -> Row:
        """The data row from which a batch's record of one index is made, or has its answer."""
        if batch == "retain":
            partner = draws.choice(self.seed, "retain partner", epoch, index, len(self.retain))
            return self.retain[partner]
        if batch in ("forget", "idk"):
            return self.forget[index]
        return self._random_rows(epoch, index)[int(batch.removeprefix("random")) - 1]

    def _retain(self, epoch: int, index: int) -> Record:
        row = self.row_of("retain", epoch, index)
        return ask(row, self.phrases, self.seed, "retain", epoch, index)

    def _idk(self, forget: Record, epoch: int, index: int) -> Record:
        question = forget.question
        if self.contents.questions is QuestionDraw.OWN:
            row = self.forget[index]
            question = ask(row, self.phrases, self.seed, "idk", epoch, index).question
        return Record(question, self._idk_answer(forget, epoch, index), forget.image)

    def _idk_answer(self, forget: Record, epoch: int, index: int) -> str | None:
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


# What a stage is trained on.
Plan = FinetunePlan | UnlearnPlan


def ask(row: Row, phrases: Phrases, seed: int, batch: str, epoch: int, index: int) -> Record:
    """The row as a record; for a picture, the caption question is drawn for epoch and index."""
    questions = phrases.caption_questions
    number = draws.choice(seed, f"caption question/{batch}", epoch, index, len(questions))
    return training_record(row, questions[number])


def order(seed: int, epoch: int, n: int) -> list[int]:
    """The order of the n records in an epoch."""
    return draws.permutation(seed, "order", epoch, n)
