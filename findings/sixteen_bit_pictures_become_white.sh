#!/usr/bin/env bash
# A 16-bit grey picture reaches the model as one white area.
#
# Versions   transformers 5.23.0, Pillow 13.0.0 (without torchvision)
# Situation  a grey PNG with 16 bits a pixel (scanners and scientific cameras write them).
# Guess      the values are scaled to 8 bits (divided by 257), as image viewers do.
# Behaviour  converting to RGB clips every value at 255. A picture whose values are all above 255 of
#            65535 becomes white; no error, no warning, and each channel has one value.
# Seen       stored values 1000 to 60000; pixel_values have one value in each channel, that of white
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
values = np.linspace(1000, 60000, 64).astype(np.uint16).reshape(8, 8)
Image.fromarray(values).save("grey.png")
assert np.array_equal(np.asarray(Image.open("grey.png")), values)
found = np.asarray(processor(Image.open("grey.png"), return_tensors="np")["pixel_values"][0])
white = np.asarray(processor(Image.new("RGB", (8, 8), "white"), return_tensors="np")["pixel_values"][0])
print("stored", values.min(), "to", values.max(), "| deviation in each channel", found.std(axis=(1, 2)).tolist())
assert np.array_equal(found, white)
PY
(cd "$home" && "$home/venv/bin/python" run.py)
