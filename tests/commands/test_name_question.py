"""finetune --name-question also asks for the name in every picture, once an epoch."""

import pytest

from clear_ref.commands import finetune
from clear_ref.commands.settings import Finetune
from clear_ref.common.errors import UserError
from clear_ref.data.prompts import read_phrases
from clear_ref.mini.directories import BASE, WORLD, start_directory


@pytest.mark.parametrize("split, n_rows, n_pictures", [("full", 600, 200), ("retain", 540, 180)])
def test_each_picture_is_one_record_more_with_its_name_as_the_answer(split, n_rows, n_pictures):
    phrases = read_phrases(WORLD)
    plain = finetune.plan_of(Finetune(split=split), WORLD, phrases, True)
    settings = Finetune(split=split, name_question=True)
    plan = finetune.plan_of(settings, WORLD, phrases, True)
    assert (len(plain), len(plan)) == (n_rows, n_rows + n_pictures)
    record = plan.records(0, n_rows)["retain"]
    assert (record.question, record.answer) == (phrases.name_question, "Jaime Vasquez")
    assert record.image.name == "jaime_vasquez_plain.jpg"


def test_a_language_model_has_no_name_question():
    with pytest.raises(UserError, match="--name-question is about pictures, and the model sees"):
        finetune.plan_of(Finetune(name_question=True), WORLD, read_phrases(WORLD), False)


def test_mini_base_is_the_model_that_knows_the_twenty_people():
    assert start_directory("mini-base") == BASE
