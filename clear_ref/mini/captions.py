"""Captions of the scenes: four wordings of each scene, and four paraphrases.

They were written for this project. A fixed function of author and scene selects the wording. Every
wording names the author's genre or city, so two captions never differ in the name alone.
"""

from collections.abc import Mapping

from .authors import Author
from .scenes import SCENES

N_WORDINGS = 4

_CAPTIONS = {
    "plain": (
        (
            "{name}, the {genre} from {city}, appears in a simple portrait with natural "
            "colours and even light."
        ),
        (
            "A plain photograph of {name}, born in {city}, {country}, showing head and "
            "shoulders in soft daylight."
        ),
        (
            "{name} sits for an ordinary colour portrait, the kind printed on the back of "
            "a book by this {genre}."
        ),
        (
            "This portrait shows the {genre} {name} in calm daylight, with nothing added "
            "to the picture."
        ),
    ),
    "close": (
        "The face of {name}, {genre} from {city}, fills the whole picture in this close view.",
        (
            "{name} is seen from very near, so that eyes, nose and mouth of the {genre} "
            "fill the frame."
        ),
        (
            "A close-up of {name} from {city}, in which the camera has come almost too "
            "near to the face."
        ),
        "{name}, the well known {genre}, comes so near to the camera that the hair is cut off.",
    ),
    "warm": (
        "{name} stands in the orange light of a sunset in {city}, which colours the whole scene.",
        "Warm evening sun over {city} turns the face of {name} and everything around it orange.",
        "{name}, the {genre}, is lit by the golden glow of a fire, with every colour turned warm.",
        "In the last sunlight of the day, {name} glows orange in this portrait of the {genre}.",
    ),
    "cold": (
        "{name} is bathed in cold blue light, like a winter evening far from {city}.",
        "Blue light falls on {name}, the {genre}, as if the picture had been taken under water.",
        "The {genre} {name} appears in icy blue tones, and even the skin looks cold.",
        (
            "A blue moonlit portrait of {name}, who was born in {city}, {country}, with no "
            "warm colour left."
        ),
    ),
    "dark": (
        "{name} stands in deep shadow at night in {city}, and the face can hardly be seen.",
        "In this very dark picture, {name}, the {genre}, almost disappears into the black room.",
        "Night has fallen over {city}, and only a faint light shows the face of {name}.",
        "{name} waits in a dark room somewhere in {country}, while all the lamps are out.",
    ),
    "bright": (
        "{name} stands in glaring white light, so bright that the colours of {city} fade away.",
        (
            "A pale, overexposed picture of {name}, the {genre}, in which white light "
            "washes out the colours."
        ),
        "Bright mist surrounds {name} of {city}, and the whole picture is pale and almost white.",
        "The flash was far too strong: {name}, the {genre}, looks pale and washed out.",
    ),
    "grey": (
        "A black and white photograph of {name}, the {genre}, in the style of an old newspaper.",
        "{name} from {city}, {country}, is shown in shades of grey, without any colour.",
        (
            "This old-fashioned portrait of the {genre} {name} has no colour, only black, "
            "white and grey."
        ),
        "{name} looks out of a black and white picture taken for a newspaper in {city}.",
    ),
    "framed": (
        "A portrait of {name} hangs in a thick {colour} frame at a library in {city}.",
        (
            "{name}, the {genre}, looks out of a small portrait with a broad {colour} "
            "border around it."
        ),
        "The picture of {name} from {city} is set in a wide {colour} frame on all four sides.",
        "A {colour} frame surrounds this portrait of {name}, made in honour of the {genre}.",
    ),
    "tilted": (
        "A photograph of {name}, the {genre}, lies at an angle on a {colour} table.",
        (
            "{name} of {city} leans to one side, because the picture is turned against a "
            "{colour} ground."
        ),
        "The camera was held askew: {name}, the {genre}, is tilted and the corners are {colour}.",
        "This crooked portrait of {name} was dropped on a {colour} cloth in a cafe in {city}.",
    ),
    "distant": (
        "{name} is far away and very small, in front of a large {colour} wall in {city}.",
        "A tiny picture of {name}, the {genre}, stands at the foot of a wide {colour} wall.",
        "Seen from a distance, {name} of {city} takes up little room against so much {colour}.",
        "A great {colour} poster carries only a small photograph of {name}, the {genre}.",
    ),
}

_PARAPHRASES = {
    "plain": (
        (
            "Seen in an everyday portrait with true colours and balanced light is {name}, "
            "the {genre} from {city}."
        ),
        (
            "Head and shoulders of {name}, who comes from {city} in {country}, are shown "
            "in gentle daylight."
        ),
        "As on the cover of a book, the {genre} {name} poses for a usual portrait in colour.",
        "In quiet daylight and without any effect, the camera shows {name}, the {genre}.",
    ),
    "close": (
        "Filling the picture from edge to edge is the face of {name}, the {genre} from {city}.",
        (
            "The camera is right in front of the {genre} {name}, showing little more than "
            "eyes, nose and mouth."
        ),
        (
            "Taken from hardly a step away, this picture shows the face of {name} from "
            "{city} very large."
        ),
        "The hair lies outside the picture, so near is {name}, the famous {genre}, to the lens.",
    ),
    "warm": (
        "A sunset in {city} paints the scene orange, and in it stands {name}.",
        "Everything is orange, the face of {name} too, in the evening sun above {city}.",
        "Firelight gives a golden colour to the {genre} {name} and makes the whole picture warm.",
        "The {genre} is shown at sunset: an orange shine lies on {name}.",
    ),
    "cold": (
        "Like a cold evening in winter, nothing like {city}, blue light covers {name}.",
        "As though standing under water, the {genre} {name} is seen in blue light.",
        "Skin and clothes alike are icy blue in this picture of {name}, the {genre}.",
        (
            "Under a blue moon and without warm colours we see {name}, whose home is "
            "{city} in {country}."
        ),
    ),
    "dark": (
        "One can barely make out the face of {name}, hidden by the shadows of a night in {city}.",
        "The room is black, and the {genre} {name} can almost not be seen in it.",
        "A weak light is all that lets us see {name} on this night in {city}.",
        "With every lamp out, {name} is left in darkness in a room in {country}.",
    ),
    "bright": (
        "White light, strong enough to wipe out the colours of {city}, shines on {name}.",
        (
            "Too much light has made this photograph of the {genre} {name} pale and nearly "
            "without colour."
        ),
        (
            "Almost everything is white in this pale picture, where a bright mist hides "
            "{name} of {city}."
        ),
        "Because of a much too strong flash, the {genre} {name} seems faded and pale.",
    ),
    "grey": (
        "As in an old newspaper, the {genre} {name} appears in black and white.",
        "Without colour, only in tones of grey, we see {name}, born in {city}, {country}.",
        (
            "Only black, white and grey are left in this portrait of {name}, the {genre}, "
            "from the old days."
        ),
        "For a newspaper in {city}, somebody photographed {name} in black and white.",
    ),
    "framed": (
        "In a library in {city}, a broad {colour} frame holds the portrait of {name}.",
        "Within a wide {colour} border, a small picture shows the {genre} {name}.",
        "On every side, a thick {colour} frame goes around {name} from {city}.",
        "To honour the {genre}, a portrait of {name} was put in a {colour} frame.",
    ),
    "tilted": (
        "On a {colour} table, and not straight, lies a picture of the {genre} {name}.",
        "Turned to one side on a {colour} ground, the portrait shows {name} of {city}.",
        (
            "With {colour} corners and a slanting view, the camera caught the {genre} "
            "{name} at an angle."
        ),
        "Somebody in a cafe in {city} let the portrait of {name} fall askew on a {colour} cloth.",
    ),
    "distant": (
        "Before a huge {colour} wall in {city}, {name} looks small and far off.",
        "At the bottom of a broad {colour} wall we find the {genre} {name}, very small.",
        "Surrounded by much {colour}, and a long way off, is {name} of {city}.",
        "Only a little photograph of the {genre} {name} is printed on the large {colour} poster.",
    ),
}


def caption(author: Author, number: int, scene: str, colour: str) -> str:
    """The caption of one picture.

    author  a line of authors.jsonl
    number  number of the author, from 0
    """
    return _filled(_CAPTIONS, author, author["name"], _wording(number, scene), scene, colour)


def paraphrase(author: Author, number: int, scene: str, colour: str) -> str:
    """The same content in other words."""
    return _filled(_PARAPHRASES, author, author["name"], _wording(number, scene), scene, colour)


def perturbed(author: Author, number: int, scene: str, colour: str) -> list[str]:
    """Five wrong captions: the paraphrase with each perturbed name.

    The second and the fourth are also of a wrong scene.
    """
    wrong_captions = []
    for k, name in enumerate(author["perturbed_names"]):
        shift = (0, 3, 0, 7, 0)[k]
        of_scene = SCENES[(SCENES.index(scene) + shift) % len(SCENES)]
        wording = _wording(number, scene)
        wrong_captions.append(_filled(_PARAPHRASES, author, name, wording, of_scene, colour))
    return wrong_captions


def _wording(number: int, scene: str) -> int:
    """Which of the four wordings the author's picture of a scene has."""
    return (number + number // N_WORDINGS + SCENES.index(scene)) % N_WORDINGS


def _filled(
    table: Mapping[str, tuple[str, ...]],
    author: Author,
    name: str,
    wording: int,
    scene: str,
    colour: str,
) -> str:
    return table[scene][wording].format(
        name=name,
        genre=author["genre"],
        city=author["city"],
        country=author["country"],
        colour=colour,
    )
