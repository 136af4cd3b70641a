#!/usr/bin/env bash
# keras-nlp 0.32.0 (keras-hub 0.32.0) with Keras 3.15.1: beam search for a batch of prompts of different lengths.
#
# A good engineer guesses: `BeamSampler` continues each prompt of a batch as it would continue it alone. The call takes the
# batch with the index behind the shortest prompt, and a mask that says which tokens are given.
# What happens: where the next token of a prompt is given, the sampler still ranks all tokens, keeps the best `num_beams` of
# them and adds their probabilities to the scores, and only then writes the given token. So the beams of the longer prompts
# become copies of one and the same text whose scores differ by probabilities of tokens that are not in it, and a token that was
# given is scored as another one. From there on the copies take up the beams: three beams give one text three times, or two, and
# a text is missed that the search finds for the same prompt alone. There is no error. GreedySampler has no scores and is not
# affected. A way around it is a batch of prompts of one length.
# Seen on Linux x86_64, Python 3.11, 2026-12-01, with the TensorFlow backend and with the JAX backend:
#
#     Keras 3.15.1, keras-nlp 0.32.0, tensorflow
#     alone               0324716666  score  -7.346  probability  -7.346
#     alone               0324711666  score  -7.476  probability  -7.476
#     alone               0324716663  score  -7.632  probability  -7.632
#     with a shorter one  0324504504  score -11.819  probability  -7.758
#     with a shorter one  0324504504  score -11.879  probability  -7.758
#     with a shorter one  0324504504  score -11.934  probability  -7.758
#     of 40 models: copies among the beams alone 0, with a shorter one 26; worse text 11
#     Keras 3.15.1, keras-nlp 0.32.0, jax
#     alone               0324102525  score  -6.662  probability  -6.662
#     alone               0324025254  score  -6.922  probability  -6.922
#     alone               0324102540  score  -7.064  probability  -7.064
#     with a shorter one  0324025254  score  -9.714  probability  -6.922
#     with a shorter one  0324025252  score  -9.943  probability  -7.151
#     with a shorter one  0324025250  score  -9.955  probability  -7.164
#     of 40 models: copies among the beams alone 0, with a shorter one 25; worse text 10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    keras-nlp==0.32.0 keras-hub==0.32.0 keras==3.15.1 tensorflow==2.21.0 tensorflow-text==2.21.1 jax==0.10.2 numpy==2.4.6
cat >"$folder/program.py" <<'PROGRAM'
import keras
import keras_nlp
import numpy as np
from keras import ops

LENGTH, BEAMS, SYMBOLS, CHAINS = 10, 3, 8, 40
SHORT, LONG = [0], [0, 3, 2, 4]


def search(table, prompts):
    """The beams and scores of each prompt, for a language model that looks at the last token only."""
    tokens = np.zeros((len(prompts), LENGTH), "int32")
    given = np.zeros((len(prompts), LENGTH), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        given[row, : len(prompt)] = True

    def next_logits(prompt, cache, index):
        return ops.log(ops.take(ops.convert_to_tensor(table), prompt[:, index - 1], axis=0)), None, cache

    sampler = keras_nlp.samplers.BeamSampler(num_beams=BEAMS, return_all_beams=True)
    index = min(map(len, prompts))
    beams, scores = sampler(next_logits, ops.convert_to_tensor(tokens), index=index, mask=ops.convert_to_tensor(given))
    return ops.convert_to_numpy(beams), ops.convert_to_numpy(scores)


def log_probability(table, text):
    """Of what follows the long prompt."""
    start = len(LONG) - 1
    return float(np.log(table[text[start:-1], text[start + 1 :]]).sum())


random = np.random.default_rng(0)
worse = copies = of_copies = 0
example = None
for _ in range(CHAINS):
    table = random.dirichlet(np.ones(SYMBOLS), SYMBOLS).astype("float32")
    alone, alone_scores = (results[0] for results in search(table, [LONG]))
    both, both_scores = (results[1] for results in search(table, [SHORT, LONG]))
    copies += len(set(map(tuple, both.tolist()))) < BEAMS
    of_copies += len(set(map(tuple, alone.tolist()))) < BEAMS
    if log_probability(table, both[0]) < log_probability(table, alone[0]) - 1e-4:
        worse += 1
        if example is None:
            example = table, alone, alone_scores, both, both_scores
print(f"Keras {keras.__version__}, keras-nlp {keras_nlp.__version__}, {keras.config.backend()}")
if example is None:
    raise SystemExit("changed: a prompt in a batch is continued as well as alone")
table, alone, alone_scores, both, both_scores = example
for title, beams, scores in (("alone", alone, alone_scores), ("with a shorter one", both, both_scores)):
    for text, score in zip(beams, scores):
        print(f"{title:18}  {''.join(map(str, text))}  score {score:7.3f}  probability {log_probability(table, text):7.3f}")
print(f"of {CHAINS} models: copies among the beams alone {of_copies}, with a shorter one {copies}; worse text {worse}")
if of_copies or copies < CHAINS // 4:
    raise SystemExit("changed: the number of models with copies among the beams")
PROGRAM
for backend in tensorflow jax; do
    KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 KERAS_HOME="$folder/keras" \
        "$folder/venv/bin/python" "$folder/program.py" 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }
done
