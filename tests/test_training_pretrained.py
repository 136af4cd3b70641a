"""Weights and tokenizers of keras-nlp presets as a beginning."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.serving.alphabet import END, PAD, SPECIALS, Alphabet
from kvae.serving.errors import ConfigError, DataError, ModelError
from kvae.training.data.preset_tokenizers import (
    alphabet_of_preset,
    ids_in_preset,
    with_preset_tokenizer,
)
from kvae.training.data.tokenizer_files import BYTES
from kvae.training.transfer import start_from, weights_of

keras_nlp = pytest.importorskip("keras_nlp")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "##s", "sees", "."]
MERGES = ["t h", "th e", "Ġ the", "c a", "ca t", "Ġ cat"]
ENTRIES = ["<|endoftext|>", *BYTES, *(merge.replace(" ", "") for merge in MERGES)]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", *ENTRIES[:0:-1], "<mask>"]
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_sequence_length": 24}
TEXTS = ["the cat sees the dogs.", "cats", "the  the\tcat", "naïve ¡5,000!", " ", "the cat's 12"]


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random presets, as `save_to_preset` writes them."""
    keras.utils.set_random_seed(0)
    models = keras_nlp.models
    made = {
        "bert": (
            models.BertBackbone(len(PIECES), intermediate_dim=64, **SIZES),
            models.BertTokenizer(vocabulary=PIECES, lowercase=False),
        ),
        "gpt2": (
            models.GPT2Backbone(len(ENTRIES), intermediate_dim=64, **SIZES),
            models.GPT2Tokenizer(
                vocabulary={entry: place for place, entry in enumerate(ENTRIES)}, merges=MERGES
            ),
        ),
    }
    made["roberta"] = (  # the pieces of GPT-2 with other ids
        models.RobertaBackbone(len(ROBERTA), intermediate_dim=64, **SIZES),
        models.RobertaTokenizer(
            vocabulary={entry: place for place, entry in enumerate(ROBERTA)}, merges=MERGES
        ),
    )
    folders = {}
    for name, (backbone, tokenizer) in made.items():
        for weight in backbone.weights:  # the zeros of biases would hide a mistake
            weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1))
        folders[name] = tmp_path_factory.mktemp("presets") / name
        backbone.save_to_preset(str(folders[name]))
        tokenizer.save_to_preset(str(folders[name]))
    return folders


def settings(folder: Path, **model: Any) -> Config:
    """A Transformer at both ends of the size of the presets."""
    return with_preset_tokenizer(
        Config().with_settings(
            {
                "training.start_from": f"keras-nlp:{folder}",
                "model.length": 12,
                "model.encoder": "transformer",
                "model.encoder_embedding": 16,
                "model.encoder_units": [16, 16],
                "model.encoder_attention_heads": 2,
                "model.expander": "repeat",
                "model.expander_base": 0,
                "model.auxiliary": False,
                "objective.alpha": 0.0,
                "model.head": "transformer",
                "model.head_units": 16,
                "model.head_layers": 2,
                "model.head_attention_heads": 2,
                "model.latent_size": [4],
                **{f"model.{name}": value for name, value in model.items()},
            }
        )
    )


def started(config: Config) -> tuple[TextVAE, Alphabet, list[str]]:
    """A model with the weights of the preset of a configuration, and what was said."""
    vocabulary = config.data.vocabulary
    assert vocabulary is not None
    alphabet = alphabet_of_preset(Path(vocabulary), config.model.tokenizer)
    config = config.with_settings({"model.vocabulary_size": len(alphabet)})
    model, said = TextVAE(config.model, config.objective), list[str]()
    start_from(model, config.training.start_from or "", alphabet, said.append)
    return model, alphabet, said


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_texts_have_the_tokens_of_the_preset(name: str, presets: dict[str, Path]) -> None:
    config = settings(presets[name])
    assert config.model.tokenizer == {"bert": "wordpiece", "gpt2": "bpe"}[name]
    alphabet = alphabet_of_preset(presets[name], config.model.tokenizer)
    ids = np.array(ids_in_preset(presets[name], alphabet))
    tokenizer = keras_nlp.models.Tokenizer.from_preset(str(presets[name]))
    for text in TEXTS:
        ours = alphabet.encode([text], 64)[0]
        ours = ours[: list(ours).index(END)]
        expected = [int(number) for number in tokenizer(text)]
        assert list(ids[ours]) == expected, text
    assert [SPECIALS[place] for place in np.flatnonzero(ids < 0)] == {
        "bert": [],
        "gpt2": ["<pad>", "<unknown>"],
    }[name]


def test_a_head_computes_what_gpt2_computes(presets: dict[str, Path]) -> None:
    model, alphabet, said = started(settings(presets["gpt2"], tied_embeddings=True))
    backbone = keras_nlp.models.Backbone.from_preset(str(presets["gpt2"]))
    ids = np.array(ids_in_preset(presets["gpt2"], alphabet))
    tokens = alphabet.encode(["the cat's 12"], 12)
    previous = np.pad(tokens[:, :-1], [[0, 0], [1, 0]], constant_values=1)
    count = int((tokens != PAD).sum())
    # the features add zeros, as a code that says nothing
    model.head.read_features.kernel.assign(keras.ops.zeros_like(model.head.read_features.kernel))
    features = np.zeros((1, 12, 4), "float32")
    logits = keras.ops.convert_to_numpy(model.head(features, previous))
    theirs = {"token_ids": ids[previous[:, :count]], "padding_mask": np.ones((1, count), "int32")}
    hidden = backbone(theirs)
    expected = keras.ops.convert_to_numpy(backbone.token_embedding(hidden, reverse=True))
    known = ids >= 0
    np.testing.assert_allclose(
        logits[0, :count][:, known], expected[0][:, ids[known]], rtol=1e-4, atol=1e-4
    )
    assert "head/decoder_1/decoder/self_attention/query/kernel" in said[-1]


def test_an_encoder_computes_what_bert_computes(presets: dict[str, Path]) -> None:
    config = settings(presets["bert"], encoder_normalization="after")
    model, alphabet, _ = started(config)
    backbone = keras_nlp.models.Backbone.from_preset(str(presets["bert"]))
    ids = np.array(ids_in_preset(presets["bert"], alphabet))
    tokens = alphabet.encode(["the cat sees the dogs."], 12)
    count = int((tokens != PAD).sum())
    rows = model.parts.features_of(*model.parts.reader(tokens), training=False)[-1].map
    theirs = {
        "token_ids": ids[tokens[:, :count]],
        "segment_ids": np.zeros((1, count), "int32"),
        "padding_mask": np.ones((1, count), "int32"),
    }
    expected = backbone(theirs)["sequence_output"]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(rows)[:, :count],
        keras.ops.convert_to_numpy(expected),
        rtol=1e-4,
        atol=1e-4,
    )


def test_both_ends_start_from_presets_with_the_same_pieces(presets: dict[str, Path]) -> None:
    config = settings(presets["roberta"], encoder_normalization="after").with_settings(
        {"training.start_from": f"keras-nlp:{presets['roberta']},{presets['gpt2']}"}
    )
    config = config.with_settings({"data.vocabulary": None})
    config = with_preset_tokenizer(config)
    assert config.data.vocabulary == str(presets["gpt2"])
    model, alphabet, said = started(config)
    weights, place = weights_of(model), alphabet.ids("the")[0]
    for path, name, entries in (
        ("reader/embedding/embeddings", "roberta", ROBERTA),
        ("head/read_previous/rows/embeddings", "gpt2", ENTRIES),
    ):
        backbone = keras_nlp.models.Backbone.from_preset(str(presets[name]))
        rows = next(it for it in backbone.weights if it.path.endswith("token_embedding/embeddings"))
        np.testing.assert_array_equal(weights[path][place], rows[entries.index("the")])
    left = said[-1].split("drawn anew: ")[1].split(", ")
    assert [name for name in left if name.startswith(("encoder", "head/decoder"))] == []


def test_shapes_that_do_not_fit_are_named(presets: dict[str, Path]) -> None:
    model, _, said = started(settings(presets["gpt2"], head_units=32, head_layers=1))
    assert "from keras-nlp:" in said[-1]
    assert "head/positions/vectors/embeddings (12, 32) instead of (12, 16)" in said[0]
    assert set(weights_of(model))


def test_what_a_preset_cannot_give_is_refused(presets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.encoder_normalization=after"):
        started(settings(presets["bert"]))
    with pytest.raises(ConfigError, match=r"model.head=transformer"):
        started(settings(presets["gpt2"], head="lstm", head_layers=1, head_attention_heads=4))
    with pytest.raises(DataError, match="nothing is downloaded"):
        settings(tmp_path / "gpt2_base_en")
    with pytest.raises(DataError, match="no tokenizer of a keras-nlp preset"):
        settings(tmp_path)
    empty = tmp_path / "tokenizer_only"
    keras_nlp.models.Tokenizer.from_preset(str(presets["gpt2"])).save_to_preset(str(empty))
    with pytest.raises(ModelError, match=r"model.weights.h5"):
        started(settings(empty))


def test_a_lowercase_tokenizer_asks_for_folded_case(
    presets: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "uncased"
    tokenizer = keras_nlp.models.BertTokenizer(vocabulary=PIECES, lowercase=True)
    tokenizer.save_to_preset(str(folder))
    with pytest.raises(ConfigError, match="--fold-case"):
        settings(folder)
    config = Config().with_settings({"data.vocabulary": str(folder), "data.fold_case": True})
    assert with_preset_tokenizer(config).model.tokenizer == "wordpiece"


def test_other_files_than_a_tokenizer_are_named(presets: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    keras_nlp.models.Tokenizer.from_preset(str(presets["bert"])).save_to_preset(str(folder))
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["config"]["suffix_indicator"] = "@@"
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="suffix_indicator='@@'"):
        settings(folder)
