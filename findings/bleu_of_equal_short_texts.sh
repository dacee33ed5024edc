#!/usr/bin/env bash
# A text of two or three words has a BLEU below 1 against itself, whatever the smoothing method.
#
# Versions   nltk 3.10.4
# Situation  sentence_bleu of a text against itself, words split at spaces, without smoothing and with
#            SmoothingFunction's methods 1, 2, 3, 4, 5 and 7 (papers on unlearning use method 1 on answers
#            that may be one name).
# Guess      1 for every text and every method: all n-grams match.
# Behaviour  n-grams that the text is too short to have count as not matched: of a name of two words method 1
#            gives 0.316, a perfect answer. Method 4 gives 1 for one word and 0.221 for two. Methods 5 and
#            7 give more than 1 for four words. Without smoothing a short text has 1e-154, with a warning.
# Seen       words  none      1      2      3      4      5      7
#            1      1.8e-231  0.178  0.595  0.354  1.000  0.192  0.192
#            2      1.5e-154  0.316  0.707  0.595  0.221  0.390  0.436
#            3      1.2e-77   0.562  0.841  0.841  0.576  0.703  0.747
#            4      1         1.000  1.000  1.000  1.000  1.011  1.011
set -euo pipefail

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check nltk==3.10.4
cat > "$home/run.py" <<'PY'
import warnings

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

warnings.simplefilter("ignore")
METHODS = (1, 2, 3, 4, 5, 7)
print("words  none      " + "      ".join(map(str, METHODS)))
seen = {}
for n in (1, 2, 3, 4):
    words = "Anna Berg paints seas".split()[:n]
    none = sentence_bleu([words], words)
    smoothed = [
        float(sentence_bleu([words], words, smoothing_function=getattr(SmoothingFunction(), f"method{k}")))
        for k in METHODS
    ]
    seen[n] = [none, *smoothed]
    print(f"{n}      {none:<8.2g}  " + "  ".join(f"{value:.3f}" for value in smoothed))
assert all(value < 1 for n in (2, 3) for value in seen[n])
assert abs(seen[2][1] - 0.01**0.25) < 1e-12 and seen[1][4] == 1 and seen[2][4] < 0.25
assert seen[4][0] == 1 and min(seen[4][5:]) > 1.01 and max(seen[n][0] for n in (1, 2, 3)) < 1e-70
PY
(cd "$home" && "$home/venv/bin/python" run.py)
