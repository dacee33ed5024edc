"""Settings of the command `visual`."""

from dataclasses import dataclass

from clear_ref.common.settings import setting
from clear_ref.visual.method_names import SEMANTICS

from .settings import device_setting, forget_setting, seed_setting

HELP = """\
visual METHOD|all: the visual-only track. A face-recognition network (ResNet-18) is trained on the
members of a split (base) and on those that are kept (gold), and forgets people by a method. Three
accuracies and two membership attacks over all splits, as in the paper's Table 5.

In the embedded world nothing is needed. For real data:

  python data_fetch.py clear --out clear
  python -m clear_ref.run visual all --data clear --network faces.safetensors --device cuda

faces.safetensors: a ResNet-18 trained to tell faces apart, under torchvision's names.
"""


@dataclass(frozen=True)
class Visual:
    """visual METHOD|all."""

    data: str = setting(
        "mini",
        "data directory whose config default (or full) has a picture and a name in each row, or "
        "mini: the embedded world of faces",
    )
    network: str = setting(
        "",
        "safetensors file of the network that base and gold begin with; default: for mini a small "
        "network with initial values",
    )
    out: str = setting("", "directory that the command writes; default: a new one in runs/")
    device: str = device_setting()
    semantics: str = setting(
        "paper",
        "whose definition of the methods and of AM-softmax: the CLEAR paper's, the method's own "
        "source (original), or the code that CLEAR's authors released",
        choices=SEMANTICS,
    )
    metrics: str = setting(
        "paper",
        "whose definitions of accuracies and attacks are printed; all are in metrics.json",
        choices=("paper", "released", "all"),
    )
    splits: int = setting(
        0,
        "number of splits, even: half forget the forget list, half the holdout list; 0: 128, and "
        "32 for mini",
        "paper App. G; released code: 128",
    )
    forget: int = forget_setting()
    forget_names: str = setting(
        "",
        "file with the names to forget, one a line; default: CLEAR's list of --forget, or the "
        "embedded world's",
        "CLEAR cv/prepare_vtofu_dataset.py:11-85 at bb14c96",
    )
    holdout_names: str = setting(
        "",
        "file with the names to hold out, which are forgotten in the other half of the splits",
        "CLEAR cv/prepare_vtofu_dataset.py:11-85 at bb14c96",
    )
    size: int = setting(
        0,
        "pixels of a picture's shorter side; 0: 224, and 48 for mini",
        "CLEAR cv/finetune.py:58-64 at bb14c96",
    )
    seed: int = seed_setting()
    networks: str = setting(
        "base",
        "which trained networks stay in --out: of every base, or of all stages (45 MB each at real "
        "size)",
        choices=("base", "all"),
    )
    processes: int = setting(
        0,
        "processes that share out the splits; 0: as many as torch has threads, one on a GPU. Under "
        "torchrun: as many as it started",
    )
