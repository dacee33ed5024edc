"""Which records each step sees. Every choice is keyed (data/draws.py), so a plan is a pure function of its seed.

source  released loader: one forget row an index, its retain partner drawn uniformly with replacement (mm/dataset.py:250),
        the epoch as long as the forget set for every method, caption questions drawn at each access (mm/dataset.py:245)
differs the views of one record in a step (forget, idk, random) share one draw of the question; released: a draw each
"""

from dataclasses import dataclass

from ..data import draws
from ..data.prompts import Phrases
from ..data.records import Record, Row, training_record
from ..errors import UserError


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
            return {"retain": ask(self.rows[index], self.phrases, self.seed, "retain", epoch, index)}
        index -= len(self.rows)
        if index < len(self.named):
            row = self.named[index]
            return {"retain": Record(self.phrases.name_question, row.values["name"], row.image)}
        drawn = draws.permutation(self.seed, "rehearsal", epoch, len(self.rehearsal))[index - len(self.named)]
        return {"retain": ask(self.rehearsal[drawn], self.phrases, self.seed, "rehearsal", epoch, index)}


@dataclass(frozen=True)
class UnlearnPlan:
    """Unlearning `forget`: each forget row once an epoch, beside it what the method's batches need."""
    forget: list[Row]
    retain: list[Row]
    batches: tuple[str, ...]
    phrases: Phrases
    seed: int

    def __post_init__(self):
        n_random = sum(name.startswith("random") for name in self.batches)
        if n_random >= len(self.forget):
            raise UserError(f"the forget set has {len(self.forget)} records, the method asks for {n_random} random answers of "
                            "other records; use a larger forget set or fewer random answers (--set n_random=N)")

    def __len__(self):
        return len(self.forget)

    def records(self, epoch: int, index: int) -> dict[str, Record]:
        """The record of one index for each batch the method needs."""
        views = {}
        forget = ask(self.forget[index], self.phrases, self.seed, "forget", epoch, index)
        others = [other + (other >= index) for other in draws.sample(
            self.seed, "random answers", epoch, index, len(self.forget) - 1,
            sum(name.startswith("random") for name in self.batches))]
        for name in self.batches:
            if name == "forget":
                views[name] = forget
            elif name == "retain":
                partner = draws.choice(self.seed, "retain partner", epoch, index, len(self.retain))
                views[name] = ask(self.retain[partner], self.phrases, self.seed, "retain", epoch, index)
            elif name == "idk":
                number = draws.choice(self.seed, "refusal", epoch, index, len(self.phrases.refusals))
                views[name] = Record(forget.question, self.phrases.refusals[number], forget.image)
            else:
                values = self.forget[others[int(name.removeprefix("random")) - 1]].values
                views[name] = Record(forget.question, values.get("caption") or values["answer"], forget.image)
        return views


def ask(row: Row, phrases: Phrases, seed: int, batch: str, epoch: int, index: int) -> Record:
    """The row as a record; a picture is asked about with the caption question drawn for this epoch and index."""
    questions = phrases.caption_questions
    return training_record(row, questions[draws.choice(seed, f"caption question/{batch}", epoch, index, len(questions))])


def order(seed: int, epoch: int, n: int) -> list[int]:
    """The order in which an epoch visits its records."""
    return draws.permutation(seed, "order", epoch, n)
