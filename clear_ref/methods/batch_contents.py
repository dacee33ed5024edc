"""What the records of the idk and random batches are, under each semantics."""

from dataclasses import dataclass
from enum import Enum


class IdkAnswer(Enum):
    """The answer that a record of the idk batch has; its question is that of a forget record."""

    REFUSAL = "a refusal"
    REFUSAL_LINE = "a refusal with the line end of its file; the file's last line has none"
    TEXT_REFUSAL_LINE = "REFUSAL_LINE for a text record, the true caption for a picture"
    TRUTH = "the true forget answer"


class RandomAnswer(Enum):
    """The record of a random batch, drawn for one forget record."""

    OTHER_FORGET_RECORD = "the forget question with the answer of another forget record"
    RETAIN_RECORD = "the forget question with the answer of a retain record"
    ANY_FORGET_RECORD = (
        "any forget record, the same one included: a picture with its own caption and a caption "
        "question, or the forget question with the answer of a text record"
    )


class QuestionDraw(Enum):
    """How the caption question of a picture is drawn for its forget and its idk record."""

    SHARED = "one draw for both"
    OWN = "one draw for each"


@dataclass(frozen=True)
class BatchContents:
    """What the records of the idk and random batches are; loop/plan.py makes them."""

    idk: IdkAnswer = IdkAnswer.REFUSAL
    random: RandomAnswer = RandomAnswer.OTHER_FORGET_RECORD
    questions: QuestionDraw = QuestionDraw.SHARED


# The idk batch of the released code at each date, by the end of the variant's name.
RELEASED_IDK = {
    "": IdkAnswer.TRUTH,
    "@2024-12-10": IdkAnswer.REFUSAL_LINE,
    "@2024-10-23": IdkAnswer.TEXT_REFUSAL_LINE,
}


def released_contents(idk: IdkAnswer = IdkAnswer.TRUTH) -> BatchContents:
    """What the batches of the released code hold; its idk batch changed with time."""
    return BatchContents(idk, RandomAnswer.ANY_FORGET_RECORD, QuestionDraw.OWN)
