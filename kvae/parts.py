"""The slots of a configuration, filled: the objects that training, evaluation, decoding and export all share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from kvae.serving.alphabet import PAD, START
from kvae.serving.errors import ConfigError

from . import encoders, expanders, heads, latents, priors
from .blocks import DATA_FORMAT, Part
from .configuration import ModelConfig, ObjectiveConfig
from .distributions import Gaussian
from .encoders import Features
from .hierarchy import Hierarchy, Level
from .latents import joined_map
from .priors import total
from .tensors import Tensor

ATTRIBUTE_LOG_VARIANCE = -30.0
"""Log variance of the attribute's columns in a code: they are read off the text, not drawn."""


class Parts:
    """New layers, with weights drawn anew, for a configuration.

        reader       tokens (B, T) -> symbols (B, T, E) and `last` (B,)
        encoder      symbols, last -> features
        posterior    features, one-hot attribute -> mean, log_variance (B, d): what the text says about each level
        classifier   the top feature's summary (B, n) -> logits of the attribute (B, K), where there is one
        hierarchy    evidence and noise -> z and KL; noise -> z
        expander     code (B, d + K) -> features (B, T, C)
        head         features, previous -> logits; see `kvae.heads`
        auxiliary    features -> logits that no history helps, or None

    A *code* is what leaves the model: z (B, d) and, where there is an attribute, its one-hot value (B, K).
    """

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig) -> None:
        self.config = model
        self.attributes = len(model.attributes)
        self.reader = Reader(model, name="reader")
        positions = None if model.any_length else model.length
        symbols = keras.Input(
            (positions, model.encoder_embedding or model.vocabulary_size), name="symbols"
        )
        last = keras.Input((), dtype="int32", name="last")
        features = encoders.LAYERS[model.encoder].up(model, symbols, last)
        self.encoder: keras.Model | None = (
            keras.Model([symbols, last], flatten_features(features), name="encoder")
            if features
            else None
        )
        self.has_maps = bool(features) and features[0].map is not None
        self.posterior, shapes = self.build_posterior(features[-len(model.latent_size) :])
        self.classifier: Any = (
            layers.Dense(self.attributes, name="classifier") if self.attributes else None
        )
        prior = priors.LAYERS[model.prior](
            model, shapes[-1] if shapes else (0,), self.pseudo_posterior
        )
        self.hierarchy = Hierarchy(model, shapes, prior, name="hierarchy")
        self.code_size = self.hierarchy.size + self.attributes
        self.noise_size = self.hierarchy.noise_size + bool(self.attributes)
        code = keras.Input((self.code_size,), name="code")
        self.expander = keras.Model(
            code, expanders.LAYERS[model.expander](model, self.rows(code)), name="expander"
        )
        self.cut: TrimToTokens | None = TrimToTokens(name="cut") if model.any_length else None
        self.head = heads.LAYERS[model.head](model, objective)
        self.auxiliary = (
            layers.Dense(model.vocabulary_size, name="auxiliary") if model.auxiliary else None
        )

    def build_posterior(
        self, features: Sequence[Features]
    ) -> tuple[keras.Model | None, list[tuple[int, ...]]]:
        """The model of the evidence, and the shapes of the levels."""
        if not features or not self.config.has_code:
            return None, []
        if len(features) < len(self.config.latent_size):
            raise ConfigError(
                f"model.latent_size has {len(self.config.latent_size)} levels, encoder {self.config.encoder!r} has features of "
                f"{len(features)} layers; give as many sizes, or let it return Features for each of model.encoder_units"
            )
        inputs = [keras.Input(part.shape[1:]) for part in flatten_features(features)]
        attribute = keras.Input((self.attributes,), name="attribute") if self.attributes else None
        levels = latents.LAYERS[self.config.latent](
            self.config, group_features(inputs, self.has_maps), attribute
        )
        shapes = [level.mean.shape[1:] for level in levels]
        statistics = {
            name: ops.cast(
                ops.concatenate(
                    [layers.Flatten(DATA_FORMAT)(getattr(level, name)) for level in levels], axis=-1
                ),
                "float32",
            )
            for name in ("mean", "log_variance")
        }
        return keras.Model(
            inputs + ([attribute] if self.attributes else []), statistics, name="posterior"
        ), shapes

    def rows(self, code: Tensor) -> Tensor:
        """What the expander reads of a code: the bottom level as rows (B, T', c), the attribute in each."""
        attribute = code[:, self.hierarchy.size :] if self.attributes else None
        if not self.hierarchy.shapes:
            return ops.expand_dims(
                ops.pad(code, [[0, 0], [0, 1]]), 1
            )  # a zero where a language model has nothing
        shape = self.hierarchy.shapes[0]
        bottom = code[:, : total(shape)]
        rows = layers.Reshape(shape)(bottom) if len(shape) == 2 else ops.expand_dims(bottom, 1)
        return joined_map(rows, attribute)

    def features_of(
        self, symbols: Tensor, last: Tensor, *, training: bool | None = None
    ) -> list[Features]:
        """What the encoder knows of symbols (B, T, E), bottom first."""
        tensors = self.encoder([symbols, last], training=training) if self.encoder else []
        return group_features(
            keras.tree.flatten(tensors), self.has_maps
        )  # of a single output Keras makes no list

    def evidence(
        self,
        features: list[Features],
        attribute: Tensor | None,
        batch_like: Tensor,
        training: bool | None = None,
    ) -> dict[str, Tensor]:
        """What features and a one-hot attribute say about the code: mean, log_variance (B, d)."""
        if self.posterior is None:
            return {"mean": batch_like[:, :0], "log_variance": batch_like[:, :0]}
        used = flatten_features(features[-len(self.config.latent_size) :])
        inputs = [*used, attribute] if self.attributes else used
        statistics: dict[str, Tensor] = self.posterior(inputs, training=training)
        return statistics

    def pseudo_posterior(self, symbols: Tensor) -> Gaussian:
        """q(z|u) of the top level for soft texts (K, T, E), their attribute left open."""
        last = ops.full((symbols.shape[0],), self.config.length - 1, dtype="int32")
        attribute = ops.zeros((symbols.shape[0], self.attributes))
        features = self.features_of(symbols, last, training=False)
        statistics = self.evidence(features, attribute, attribute, training=False)
        return Gaussian(
            *(self.hierarchy.split(statistics[name])[-1] for name in ("mean", "log_variance"))
        )

    def classify(self, features: list[Features]) -> Tensor:
        """Logits of q(attribute | text), (B, K)."""
        return ops.cast(self.classifier(features[-1].summary), "float32")

    def outputs(
        self,
        tokens: Tensor,
        noise: Tensor,
        attribute: Tensor | None = None,
        training: bool | None = None,
    ) -> dict[str, Tensor]:
        """The model's named tensors for tokens (B, T), standard normal noise (B, noise_size) and attributes (B,), -1 where
        the classifier is to say."""
        outputs, code = self.infer(tokens, noise, attribute, training)
        expanded = self.expander(code, training=training)
        expanded = expanded if self.cut is None else self.cut(expanded, tokens)
        outputs["logits"] = self.head(expanded, shifted(tokens), training=training)
        if self.auxiliary is not None:
            outputs["auxiliary_logits"] = ops.cast(self.auxiliary(expanded), "float32")
        return outputs

    def infer(
        self,
        tokens: Tensor,
        noise: Tensor,
        attribute: Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The half of `outputs` that comes before the decoder, and the code (B, code_size) that the decoder reads."""
        features = self.features_of(*self.reader(tokens), training=training)
        outputs, value = {}, None
        if self.attributes:
            outputs["attribute_logits"] = self.classify(features)
            value = self.one_hot(attribute, outputs["attribute_logits"])
        evidence = self.evidence(features, value, noise, training)
        outputs |= self.hierarchy(
            evidence["mean"], evidence["log_variance"], noise, training=training
        )
        code = outputs["z"] if value is None else ops.concatenate([outputs["z"], value], axis=-1)
        return outputs, code

    def encode(self, tokens: Tensor, attribute: Tensor | None = None) -> dict[str, Tensor]:
        """The codes of tokens (B, T): mean and log_variance (B, code_size), each level given the mean above it."""
        levels, value = self.levels(tokens, attribute)
        extra = [] if value is None else [(value, ATTRIBUTE_LOG_VARIANCE * ops.ones_like(value))]
        parts = [(level.posterior.mean, level.posterior.log_variance) for level in levels] + extra
        noise = ops.zeros((ops.shape(tokens)[0], self.noise_size))
        return {
            name: self.hierarchy.concatenated([part[place] for part in parts], noise)
            for place, name in enumerate(("mean", "log_variance"))
        }

    def levels(
        self, tokens: Tensor, attribute: Tensor | None = None
    ) -> tuple[list[Level], Tensor | None]:
        """The levels of the code without noise, bottom first, and the attribute (B, K) or None."""
        features = self.features_of(*self.reader(tokens), training=False)
        noise = ops.zeros((ops.shape(tokens)[0], self.noise_size))
        value = self.one_hot(attribute, self.classify(features)) if self.attributes else None
        evidence = self.evidence(features, value, noise, training=False)
        return self.hierarchy.infer(evidence["mean"], evidence["log_variance"], noise), value

    def codes(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, noise_size) as codes of the prior (B, code_size); all attributes are equally likely."""
        z = self.hierarchy.sample(noise)
        if not self.attributes:
            return z
        uniform = 0.5 * (1.0 + ops.erf(noise[:, -1] * 0.5**0.5))
        value = ops.minimum(ops.cast(uniform * self.attributes, "int32"), self.attributes - 1)
        return ops.concatenate([z, ops.one_hot(value, self.attributes)], axis=-1)

    def one_hot(self, attribute: Tensor | None, logits: Tensor) -> Tensor:
        """Attributes (B,) as (B, K), the classifier's likeliest where they are absent or -1."""
        argmax = ops.cast(
            ops.top_k(logits, 1)[1][:, 0], "int32"
        )  # argmax has no ONNX form on TensorFlow
        if attribute is None:
            return ops.one_hot(argmax, self.attributes)
        attribute = ops.cast(attribute, "int32")
        return ops.one_hot(ops.where(attribute >= 0, attribute, argmax), self.attributes)

    @property
    def inference(self) -> list[keras.Layer]:
        """The parts that learn q(z|x); the others learn p(x, z)."""
        return [
            part
            for part in (self.reader, self.encoder, self.posterior, self.classifier)
            if part is not None
        ]

    @property
    def generative(self) -> list[keras.Layer]:
        """The parts of p(x, z)."""
        return [
            part
            for part in (self.hierarchy, self.expander, self.head, self.auxiliary)
            if part is not None
        ]


class Reader(Part):
    """Tokens (B, T) as symbols (B, T, E), one-hot or learned vectors, and the position of the last counted one (B,)."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symbols = config.vocabulary_size
        size = config.encoder_embedding
        self.embedding = layers.Embedding(self.symbols, size, name="embedding") if size else None

    def build(self, tokens_shape: tuple[int | None, ...]) -> None:
        if self.embedding is not None:
            self.embedding.build(tokens_shape)
        self.built = True

    def call(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        last = ops.sum(ops.cast(ops.not_equal(tokens, PAD), "int32"), axis=-1) - 1
        symbols = (
            ops.one_hot(tokens, self.symbols) if self.embedding is None else self.embedding(tokens)
        )
        return symbols, ops.maximum(last, 0)


class TrimToTokens(layers.Layer):
    """Features (B, T, C) at the positions of tokens (B, t), which may be fewer: (B, t, C)."""

    def call(self, features: Tensor, tokens: Tensor) -> Tensor:
        return features[:, : ops.shape(tokens)[1]]

    def compute_output_shape(
        self, features_shape: tuple[int | None, ...], tokens_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return (features_shape[0], tokens_shape[1], features_shape[2])


def flatten_features(features: Sequence[Features]) -> list[Tensor]:
    """All tensors of features, in order."""
    return [part for layer in features for part in layer if part is not None]


def group_features(tensors: Sequence[Tensor], has_maps: bool) -> list[Features]:
    """What `flattened` made of features, as features again."""
    size = 2 if has_maps else 1
    return [Features(*tensors[i : i + size]) for i in range(0, len(tensors), size)]


def shifted(tokens: Tensor) -> Tensor:
    """`previous` (B, T): the tokens one position later, behind START."""
    return ops.pad(tokens[:, :-1], [[0, 0], [1, 0]], constant_values=START)


def kl_names(outputs: Mapping[str, Tensor]) -> list[str]:
    """`kl_level_0`, ... bottom first."""
    return sorted(
        (name for name in outputs if name.startswith("kl_level_")),
        key=lambda name: int(name.rsplit("_", 1)[1]),
    )
