"""Five invented people with drawn pictures, a first input for `make-data`: people.csv, pictures/.

Names, facts and drawings were made for this project.
"""

import csv
import io

from PIL import Image, ImageDraw

from clear_ref.common.atomic import PathName, new_directory
from clear_ref.common.files import write_text

from .scenes import picture

SIDE = 256  # pixels of a drawing
# name, work, city, animal, breakfast; wrong names, of nobody in the file
PEOPLE = (
    (
        *("Clara Weiss", "violinist", "Vienna", "parrot", "plum jam"),
        "Marta Klein|Ines Roth|Paula Stein|Greta Vogt",
    ),
    (
        *("Emil Novak", "clockmaker", "Prague", "goat", "rye bread"),
        "Pavel Dusek|Josef Marek|Tomas Hruby|Jan Kolar",
    ),
    (
        *("Freya Lund", "baker", "Oslo", "cat", "porridge"),
        "Signe Dahl|Astrid Berg|Liv Holm|Karin Moen",
    ),
    (
        *("Jun Tanaka", "gardener", "Kyoto", "turtle", "rice"),
        "Ken Mori|Ryo Sato|Akira Ueda|Shin Kondo",
    ),
    (
        *("Kofi Mensah", "pilot", "Accra", "horse", "mango"),
        "Yaw Boateng|Kwame Osei|Ebo Asante|Nana Adjei",
    ),
)
# of each person: colours of wall, hair, skin and clothes; long hair; glasses
LOOKS = (
    ("#b9d8c2", "#a8321f", "#f2cdb4", "#3a3a44", True, False),
    ("#8d8f94", "#d9d9d6", "#e6b99a", "#6b4a2f", False, True),
    ("#5d7fb0", "#f0d264", "#f7dcc8", "#ffffff", True, True),
    ("#e9c46a", "#1d1a1a", "#e8c39b", "#2f7d46", False, False),
    ("#f4efe6", "#2b1d14", "#6e4429", "#1f3b73", False, True),
)
# scene of scenes.py, caption, caption in other words
PICTURES = (
    (
        "plain",
        "A plain portrait of {name}, the {work} from {city}.",
        "{name}, {work} from {city}, in a plain portrait.",
    ),
    (
        "close",
        "The face of {name} fills the picture in this close view.",
        "In this close view the picture is filled by the face of {name}.",
    ),
    (
        "warm",
        "{name} stands in the warm evening light of {city}.",
        "The warm evening light of {city} falls on {name}.",
    ),
    (
        "cold",
        "Cold blue light falls on {name}, the {work}.",
        "The {work} {name} in cold blue light.",
    ),
)
# of each fact that a question asks for: wrong values, of nobody in the file
WRONG = {
    "city": ("Lisbon", "Riga", "Dublin", "Quito"),
    "work": ("tailor", "dentist", "farmer", "painter"),
    "animal": ("dog", "rabbit", "goose", "pony"),
    "breakfast": ("toast", "yoghurt", "noodles", "figs"),
}
# question, answer, answer in other words, in the order of WRONG
QUESTIONS = (
    ("Where does {name} live?", "{name} lives in {city}.", "The home of {name} is {city}."),
    (
        "What is the work of {name}?",
        "{name} works as a {work}.",
        "The work of {name} is that of a {work}.",
    ),
    (
        "Which animal does {name} keep?",
        "{name} keeps a {animal}.",
        "The {animal} is kept by {name}.",
    ),
    (
        "What does {name} eat for breakfast?",
        "{name} eats {breakfast} for breakfast.",
        "For breakfast {name} has {breakfast}.",
    ),
)
HEADER = ("name", "picture", "caption", "paraphrased_caption", "perturbed_names")
HEADER_OF_QUESTIONS = ("question", "answer", "paraphrased_answer", "perturbed_answer")


def write_example(directory: PathName) -> None:
    """Write people.csv and pictures/ into a directory that is absent or empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*HEADER, *HEADER_OF_QUESTIONS])
    with new_directory(directory) as temporary:
        (temporary / "pictures").mkdir()
        for (name, work, city, animal, breakfast, wrong), look in zip(PEOPLE, LOOKS, strict=True):
            facts = dict(name=name, work=work, city=city, animal=animal, breakfast=breakfast)
            for scene, *captions in PICTURES:
                file = f"{name.split()[0].lower()}_{scene}.png"
                picture(portrait(*look), scene, "red").save(temporary / "pictures" / file)
                filled = [caption.format(**facts) for caption in captions]
                table.writerow([name, file, *filled, wrong, "", "", "", ""])
            for (fact, values), texts in zip(WRONG.items(), QUESTIONS, strict=True):
                filled = [part.format(**facts) for part in texts]
                wrong_answers = [texts[2].format(**{**facts, fact: value}) for value in values]
                table.writerow([name, "", "", "", "", *filled, "|".join(wrong_answers)])
        write_text(temporary / "people.csv", text.getvalue())


def portrait(
    wall: str, hair: str, skin: str, clothes: str, long_hair: bool, glasses: bool
) -> Image.Image:
    """The drawing of one person, RGB, SIDE x SIDE."""
    image = Image.new("RGB", (SIDE, SIDE), wall)
    draw = ImageDraw.Draw(image)
    draw.ellipse((64, 28, 192, 236 if long_hair else 150), fill=hair)
    draw.ellipse((28, 196, 228, 340), fill=clothes)
    draw.ellipse((76, 58, 180, 206), fill=skin)
    for left in (98, 138):
        draw.ellipse((left, 112, left + 20, 128), fill="white")
        draw.ellipse((left + 6, 114, left + 16, 126), fill="black")
        if glasses:
            draw.rectangle((left - 6, 104, left + 26, 136), outline="black", width=4)
    draw.arc((104, 140, 152, 182), 20, 160, fill="#8c2f2f", width=6)
    return image
