#!/usr/bin/env bash
# An image processor gives other pixels for a path than for the same file opened with Pillow.
#
# Versions   transformers 5.23.0, Pillow 13.0.0 (without torchvision)
# Situation  half of a data pipeline passes paths, the other half passes Image.open(path).
# Guess      the same: both end in the same Pillow image.
# Behaviour  a path goes through load_image, which turns the picture by its EXIF tag and drops the alpha
#            channel; an object is not turned, and its transparent pixels are laid on white.
# Seen       turned picture: largest difference 3.83; transparent picture: mean -1.67 by path, 2.05 as object
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
cat > "$home/run.py" <<'PY'
import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import transformers
from PIL import Image

processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})


def pixels(picture):
    return np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])


half = np.zeros((8, 8, 3), np.uint8)
half[:4] = 255
tag = Image.Exif()
tag[0x112] = 6  # turn by 90 degrees
Image.fromarray(half).save("turned.png", exif=tag)
Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save("transparent.png")
turned = float(np.abs(pixels("turned.png") - pixels(Image.open("turned.png"))).max())
by_path, as_object = (float(pixels(each).mean()) for each in ("transparent.png", Image.open("transparent.png")))
print("turned:", round(turned, 2), "| transparent:", round(by_path, 2), round(as_object, 2))
assert turned > 3 and by_path < -1 and as_object > 1
PY
(cd "$home" && "$home/venv/bin/python" run.py)
