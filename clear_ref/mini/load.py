"""`clear_ref.load`: the model of a directory, or of the embedded world."""

from clear_ref.common.files import PathName
from clear_ref.model import vlm
from clear_ref.model.vlm import VLM

from .directories import model_directory


def load(
    path: PathName,
    dtype: str = "float32",
    device: str = "cpu",
    template: str = "",
    adapter: PathName = "",
) -> VLM:
    """The model of an HF-format directory (config.json, tokenizer.json, safetensors).

    path      the directory; mini: the base model of the embedded world
    dtype     of the weights, in which the model computes: float32, bfloat16, float16 or float64
    device    cpu or cuda
    template  the name of a template in data/templates.py; "": the one that the directory asks for
    adapter   a PEFT directory whose adapter is attached, which may be the model's own; "": none
    raises    UserError that names the file and the problem
    """
    return vlm.load(model_directory(str(path)), dtype, device, template, adapter)
