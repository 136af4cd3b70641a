"""The parts of a model: one object for each slot of a configuration, shared by training,
evaluation, decoding and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers, ops

from kvae.serving.alphabet import PAD, START
from kvae.serving.errors import ConfigError

from . import encoders, expanders, flows, heads, latents, priors
from .blocks import DATA_FORMAT, Part, repeated_rows
from .configuration import ModelConfig, ObjectiveConfig
from .distributions import Gaussian
from .encoders import Features
from .hierarchy import Hierarchy, Level
from .latents import joined_map, joined_vector
from .priors import flat_size
from .tensors import Tensor

ATTRIBUTE_LOG_VARIANCE = -30.0
"""Log variance of the attribute's columns in a code, which are classified and not sampled."""


class Parts:
    """The layers of a configuration, with newly initialised weights.

        reader      tokens (B, T) -> symbols (B, T, E) and `last` (B,)
        encoder     symbols, last -> features
        posterior   features, one-hot attribute -> mean, log_variance (B, d): evidence of each level
                    (and the context (B, n) of the flow)
        flow        code of the top level, context -> code, log determinant; or None
        classifier  summary of the top layer (B, n) -> logits of the attribute (B, K), or None
        hierarchy   evidence and noise -> z and KL; noise -> z
        expander    code (B, d + K) -> features (B, T, C)
        head        features, previous -> logits; see `kvae.heads`
        auxiliary   features -> logits without history, or None
        bag         code -> logits (B, V) of the tokens in any order, or None

    A *code* is z (B, d) and, if the model has an attribute, its one-hot value (B, K).
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
        self.posterior, shapes, self.flow = self.build_posterior(
            features[-len(model.latent_size) :]
        )
        self.classifier: Any = (
            layers.Dense(self.attributes, name="classifier") if self.attributes else None
        )
        prior = priors.LAYERS[model.prior](
            model, shapes[-1] if shapes else (0,), self.pseudo_posterior
        )
        forward = self.flow.forward if self.flow is not None else None
        self.hierarchy = Hierarchy(model, shapes, prior, forward, name="hierarchy")
        self.code_size = self.hierarchy.size + self.attributes
        self.noise_size = self.hierarchy.noise_size + bool(self.attributes)
        code = keras.Input((self.code_size,), name="code")
        self.expander = keras.Model(
            code, expanders.LAYERS[model.expander](model, self.rows(code)), name="expander"
        )
        self.cut = TrimToTokens(name="cut")
        self.head = heads.LAYERS[model.head](model, objective)
        self.auxiliary = (
            layers.Dense(model.vocabulary_size, name="auxiliary") if model.auxiliary else None
        )
        self.bag = (
            layers.Dense(model.vocabulary_size, name="bag") if objective.bag_of_words else None
        )

    def build_posterior(
        self, features: Sequence[Features]
    ) -> tuple[keras.Model | None, list[tuple[int, ...]], Any]:
        """The model from features to the evidence, the shapes of the levels, bottom first, and the
        flow of the top level or None."""
        if not features or not self.config.has_code:
            return None, [], None
        if len(features) < len(self.config.latent_size):
            raise ConfigError(
                f"model.latent_size has {len(self.config.latent_size)} levels, encoder "
                f"{self.config.encoder!r} has features of {len(features)} layers; give as many "
                "sizes, or let it return Features for each of model.encoder_units"
            )
        inputs = [keras.Input(part.shape[1:]) for part in flatten_features(features)]
        attribute = keras.Input((self.attributes,), name="attribute") if self.attributes else None
        grouped = group_features(inputs, self.has_maps)
        levels = latents.LAYERS[self.config.latent](self.config, grouped, attribute)
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
        flow = flows.LAYERS[self.config.posterior](self.config, flat_size(shapes[-1]))
        if flow is not None:
            context = flow.context(joined_vector(grouped[-1].summary, attribute))
            statistics["context"] = ops.cast(context, "float32")
        inputs += [attribute] if self.attributes else []
        return keras.Model(inputs, statistics, name="posterior"), shapes, flow

    def rows(self, code: Tensor) -> Tensor:
        """The input of the expander: the bottom level of a code as rows (B, T', c), with the
        attribute in each row."""
        attribute = code[:, self.hierarchy.size :] if self.attributes else None
        if not self.hierarchy.shapes:
            # A language model has no code: one column of zeros in its place.
            return ops.expand_dims(ops.pad(code, [[0, 0], [0, 1]]), 1)
        shape = self.hierarchy.shapes[0]
        bottom = code[:, : flat_size(shape)]
        rows = layers.Reshape(shape)(bottom) if len(shape) == 2 else ops.expand_dims(bottom, 1)
        return joined_map(rows, attribute)

    def features_of(
        self, symbols: Tensor, last: Tensor, *, training: bool | None = None
    ) -> list[Features]:
        """The features of symbols (B, T, E) in each layer of the encoder, bottom first."""
        tensors = self.encoder([symbols, last], training=training) if self.encoder else []
        # Keras returns a single output as a tensor, not as a list.
        return group_features(keras.tree.flatten(tensors), self.has_maps)

    def evidence(
        self,
        features: list[Features],
        attribute: Tensor | None,
        batch_like: Tensor,
        training: bool | None = None,
    ) -> dict[str, Tensor]:
        """The evidence of features and a one-hot attribute (B, K): mean, log_variance (B, d), and
        the context (B, n) of the flow if there is one."""
        if self.posterior is None:
            return {"mean": batch_like[:, :0], "log_variance": batch_like[:, :0]}
        used = flatten_features(features[-len(self.config.latent_size) :])
        inputs = [*used, attribute] if self.attributes else used
        statistics: dict[str, Tensor] = self.posterior(inputs, training=training)
        return statistics

    def pseudo_posterior(self, symbols: Tensor) -> Gaussian:
        """q(z|u) of the top level for soft texts (K, T, E), with an attribute of zeros."""
        last = ops.full((symbols.shape[0],), self.config.length - 1, dtype="int32")
        attribute = ops.zeros((symbols.shape[0], self.attributes))
        features = self.features_of(symbols, last, training=False)
        statistics = self.evidence(features, attribute, attribute, training=False)
        return Gaussian(
            *(self.hierarchy.split(statistics[name])[-1] for name in ("mean", "log_variance"))
        )

    def classify(self, features: list[Features]) -> Tensor:
        """Logits of q(attribute | text), (B, K) float32."""
        return ops.cast(self.classifier(features[-1].summary), "float32")

    def outputs(
        self,
        tokens: Tensor,
        noise: Tensor,
        attribute: Tensor | None = None,
        training: bool | None = None,
        samples: int | Tensor = 1,
    ) -> dict[str, Tensor]:
        """The outputs of the model for tokens (B, T), standard normal noise (B, noise_size) and
        attributes (B,). Where the attribute is -1, the classifier chooses.

        With K `samples` and noise (B * K, noise_size), row b * K + k of every output is that of
        text b and its code k; `attribute_logits` have one row a text. The encoder runs once.
        """
        outputs, code = self.infer(tokens, noise, attribute, training, samples)
        tokens = repeated_rows(tokens, samples)
        expanded = self.cut(self.expander(code, training=training), tokens)
        outputs["logits"] = self.head(expanded, shifted(tokens), training=training)
        if self.auxiliary is not None:
            outputs["auxiliary_logits"] = ops.cast(self.auxiliary(expanded), "float32")
        if self.bag is not None:
            outputs["bag_logits"] = ops.cast(self.bag(code), "float32")
        return outputs

    def infer(
        self,
        tokens: Tensor,
        noise: Tensor,
        attribute: Tensor | None = None,
        training: bool | None = None,
        samples: int | Tensor = 1,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The outputs that do not need the decoder, and the code (B * samples, code_size) that the
        decoder reads."""
        features = self.features_of(*self.reader(tokens), training=training)
        outputs, value = {}, None
        if self.attributes:
            outputs["attribute_logits"] = self.classify(features)
            value = self.one_hot(attribute, outputs["attribute_logits"])
        evidence = self.evidence(features, value, noise, training)
        evidence = {name: repeated_rows(part, samples) for name, part in evidence.items()}
        outputs |= self.hierarchy(evidence, noise, training=training)
        if value is None:
            return outputs, outputs["z"]
        value = repeated_rows(value, samples)
        return outputs, ops.concatenate([outputs["z"], value], axis=-1)

    def encode(self, tokens: Tensor, attribute: Tensor | None = None) -> dict[str, Tensor]:
        """The codes of tokens (B, T): mean and log_variance (B, code_size), each level given the
        mean of the level above."""
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
        """The levels of the code with zero noise, bottom first, and the one-hot attribute (B, K) or
        None."""
        features = self.features_of(*self.reader(tokens), training=False)
        noise = ops.zeros((ops.shape(tokens)[0], self.noise_size))
        value = self.one_hot(attribute, self.classify(features)) if self.attributes else None
        evidence = self.evidence(features, value, noise, training=False)
        return self.hierarchy.infer(evidence, noise), value

    def codes(self, noise: Tensor) -> Tensor:
        """Codes of the prior (B, code_size) from standard normal noise (B, noise_size), attributes
        uniformly distributed."""
        z = self.hierarchy.sample(noise)
        if not self.attributes:
            return z
        uniform = 0.5 * (1.0 + ops.erf(noise[:, -1] * 0.5**0.5))
        value = ops.minimum(ops.cast(uniform * self.attributes, "int32"), self.attributes - 1)
        return ops.concatenate([z, ops.one_hot(value, self.attributes)], axis=-1)

    def one_hot(self, attribute: Tensor | None, logits: Tensor) -> Tensor:
        """One-hot attributes (B, K) of attributes (B,). Where they are None or -1, the argmax of
        the classifier's logits."""
        # ops.argmax cannot be converted to ONNX from TensorFlow.
        argmax = ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32")
        if attribute is None:
            return ops.one_hot(argmax, self.attributes)
        attribute = ops.cast(attribute, "int32")
        return ops.one_hot(ops.where(attribute >= 0, attribute, argmax), self.attributes)

    @property
    def inference(self) -> list[keras.Layer]:
        """The parts of q(z|x)."""
        return [
            part
            for part in (self.reader, self.encoder, self.posterior, self.flow, self.classifier)
            if part is not None
        ]

    @property
    def generative(self) -> list[keras.Layer]:
        """The parts of p(x, z)."""
        return [
            part
            for part in (self.hierarchy, self.expander, self.head, self.auxiliary, self.bag)
            if part is not None
        ]


class Reader(Part):
    """Tokens (B, t) to symbols (B, T, E), one-hot vectors or embeddings, and the position (B,) of
    the last token before the padding.

    Trimmed tokens are padded to the T positions of the model, unless its features do not depend on
    T (`ModelConfig.any_length`); then T is t.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symbols = config.vocabulary_size
        self.length = None if config.any_length else config.length
        size = config.encoder_embedding
        self.embedding = layers.Embedding(self.symbols, size, name="embedding") if size else None

    def build(self, tokens_shape: tuple[int | None, ...]) -> None:
        if self.embedding is not None:
            self.embedding.build(tokens_shape)
        self.built = True

    def call(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        last = ops.sum(ops.cast(ops.not_equal(tokens, PAD), "int32"), axis=-1) - 1
        tokens = tokens if self.length is None else padded(tokens, self.length)
        symbols = (
            ops.one_hot(tokens, self.symbols) if self.embedding is None else self.embedding(tokens)
        )
        return symbols, ops.maximum(last, 0)


class TrimToTokens(layers.Layer):
    """Trim features (B, T, C) to the positions of tokens (B, t): (B, t, C)."""

    def call(self, features: Tensor, tokens: Tensor) -> Tensor:
        if features.shape[1] == tokens.shape[1]:
            return features
        return features[:, : ops.shape(tokens)[1]]

    def compute_output_shape(
        self, features_shape: tuple[int | None, ...], tokens_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return (features_shape[0], tokens_shape[1], features_shape[2])


def padded(tokens: Tensor, length: int) -> Tensor:
    """Tokens (B, t) with t up to `length`, padded to (B, length)."""
    if tokens.shape[1] == length:
        return tokens
    batch = ops.shape(tokens)[0]
    padding = ops.full((batch, length), PAD, dtype=tokens.dtype)
    return ops.reshape(ops.concatenate([tokens, padding], axis=1)[:, :length], (batch, length))


def flatten_features(features: Sequence[Features]) -> list[Tensor]:
    """The tensors of several features as one list."""
    return [part for layer in features for part in layer if part is not None]


def group_features(tensors: Sequence[Tensor], has_maps: bool) -> list[Features]:
    """The inverse of `flatten_features`."""
    size = 2 if has_maps else 1
    return [Features(*tensors[i : i + size]) for i in range(0, len(tensors), size)]


def shifted(tokens: Tensor) -> Tensor:
    """Previous tokens (B, T): START, then the tokens without the last."""
    return ops.pad(tokens[:, :-1], [[0, 0], [1, 0]], constant_values=START)


def kl_names(outputs: Mapping[str, Tensor]) -> list[str]:
    """The names `kl_level_0`, ... in the outputs of a model, bottom first."""
    return sorted(
        (name for name in outputs if name.startswith("kl_level_")),
        key=lambda name: int(name.rsplit("_", 1)[1]),
    )
