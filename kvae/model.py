"""TextVAE: the five slots put together as one functional Keras model with a training step of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import keras
from keras import layers, ops

from kvae.serving.alphabet import START
from kvae.serving.errors import ConfigError

from .configuration import ModelConfig, ObjectiveConfig
from .distributions import Gaussian
from .encoders import ENCODERS
from .expanders import EXPANDERS
from .heads import HEADS
from .latents import LATENTS
from .objectives import bits_per_character, loss_terms
from .priors import PRIORS, Prior


@keras.saving.register_keras_serializable("kvae")
class TextVAE(keras.Model):
    """A variational autoencoder for text: tokens (B, T) int32 in, a dict of named tensors out.

        logits              (B, T, V)  teacher-forced: position t has read z and the tokens before t
        auxiliary_logits    (B, T, V)  from the expander's features alone, where the model has them
        mean, log_variance  (B, d)     the posterior q(z|x)
        z                   (B, d)     a sample of it
        kl_level_0          (B,)       KL(q(z|x) || p(z)), nats

    `compile(optimizer)` needs no loss, the objective is part of the configuration; then `fit`, `evaluate` and `predict`
    take rows of tokens and nothing else. `encoder`, `expander` and `head` are the parts that decoding and export share.
    Raises `ConfigError` for slots that do not fit each other.
    """

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig | None = None, **kwargs: Any) -> None:
        objective = objective or ObjectiveConfig()
        check_slots(model, objective)
        parts = Parts.build(model, objective)
        tokens = keras.Input((model.length,), dtype="int32", name="tokens")
        noise = StandardNoise(model.latent_size, name="noise")(tokens)
        outputs = parts.outputs(tokens, noise)
        super().__init__(inputs=tokens, outputs=outputs, **kwargs)

        self.model_config, self.objective_config = model, objective
        self.parts, self.prior = parts, parts.prior
        self.encoder, self.expander, self.head = parts.encoder, parts.expander, parts.head
        self.training_steps = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="training_steps"
        )
        names = ["loss", "reconstruction", "kl", *sorted(name for name in outputs if name.startswith("kl_level_"))]
        names += ["auxiliary"] if model.auxiliary else []
        names += ["elbo", "bits_per_character", "beta", "gradient_norm"]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def loss_terms(self, tokens: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The objective's terms at the present training step, per example (B,), nats per sequence."""
        return loss_terms(self.objective_config, tokens, outputs, self.training_steps)

    def track(self, terms: Mapping[str, Any], gradient_norm: Any = None) -> dict[str, Any]:
        """Add a batch's terms to the running means and return those, under the names of DESIGN's metrics."""
        for name, tracker in self.trackers.items():
            if name in terms:
                tracker.update_state(terms[name])
        positions = terms["positions"]
        self.trackers["bits_per_character"].update_state(
            bits_per_character(terms["elbo"], positions), sample_weight=positions
        )
        if gradient_norm is None:
            return {name: tracker.result() for name, tracker in self.trackers.items() if name != "gradient_norm"}
        self.trackers["gradient_norm"].update_state(gradient_norm)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    @property
    def metrics(self) -> list[keras.Metric]:
        return list(self.trackers.values())

    def train_step(self, *arguments: Any) -> Any:
        """One optimisation step, written once per backend in `kvae.training`."""
        return backend_steps().train_step(self, *arguments)

    def test_step(self, *arguments: Any) -> Any:
        """One evaluation step, as `train_step`."""
        return backend_steps().test_step(self, *arguments)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "model": self.model_config.to_dict(), "objective": self.objective_config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TextVAE:
        parts = {
            "model": ModelConfig.from_dict(config["model"]),
            "objective": ObjectiveConfig.from_dict(config["objective"]),
        }
        return cls(**{**config, **parts})


@dataclass(frozen=True)
class Parts:
    """The filled slots. Training, evaluation, decoding and export all use these same objects."""

    encoder: keras.Model
    """tokens (B, T) -> {"mean", "log_variance"}, each (B, d)."""
    prior: Prior
    expander: keras.Model
    """z (B, d) -> features (B, T, C)."""
    head: layers.Layer
    """features, previous -> logits; see `kvae.heads`."""
    auxiliary: layers.Layer | None
    """features -> logits that no history helps, or None."""

    @classmethod
    def build(cls, model: ModelConfig, objective: ObjectiveConfig) -> Parts:
        """New layers, with weights drawn anew, for a configuration."""
        tokens = keras.Input((model.length,), dtype="int32", name="tokens")
        z = keras.Input((model.latent_size,), name="z")
        posterior = LATENTS[model.latent](
            model, ENCODERS[model.encoder](model, ops.one_hot(tokens, model.vocabulary_size))
        )
        return cls(
            keras.Model(tokens, {"mean": posterior.mean, "log_variance": posterior.log_variance}, name="encoder"),
            PRIORS[model.prior](model),
            keras.Model(z, EXPANDERS[model.expander](model, z), name="expander"),
            HEADS[model.head](model, objective),
            layers.Dense(model.vocabulary_size, name="auxiliary") if model.auxiliary else None,
        )

    def outputs(self, tokens: Any, noise: Any, training: bool | None = None) -> dict[str, Any]:
        """The model's named tensors for tokens (B, T) and standard normal noise (B, d)."""
        statistics = self.encoder(tokens, training=training)
        posterior = Gaussian(**statistics)
        z = posterior.sample(noise)
        features = self.expander(z, training=training)
        outputs = {
            "logits": self.head(features, shifted(tokens), training=training),
            "kl_level_0": self.prior.kl_divergence(posterior, z),
            "z": z,
            **statistics,
        }
        if self.auxiliary is not None:
            outputs["auxiliary_logits"] = self.auxiliary(features)
        return outputs


def shifted(tokens: Any) -> Any:
    """`previous` (B, T): the tokens one position later, behind START."""
    return ops.pad(tokens[:, :-1], [[0, 0], [1, 0]], constant_values=START)


class StandardNoise(layers.Layer):
    """A row of standard normal noise (size,) for each row of tokens, from a generator that is saved with the model."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.generator = keras.random.SeedGenerator()

    def call(self, tokens: Any) -> Any:
        return keras.random.normal((ops.shape(tokens)[0], self.size), dtype=self.compute_dtype, seed=self.generator)


def tokens_of(data: Any) -> Any:
    """The tokens of what `fit` and `evaluate` feed a step; raises `ConfigError` for targets and sample weights."""
    tokens, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None or weights is not None:
        raise ConfigError("a TextVAE learns from tokens alone: give neither targets nor sample weights")
    return tokens


def check_slots(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Refuse what does not fit together, with the reason."""
    policy = keras.config.dtype_policy()
    if policy.compute_dtype != "float32":
        raise ConfigError(f"kvae computes in float32, the policy of Keras is {policy.name!r}; set it to 'float32'")
    for name in ("length", "vocabulary_size"):
        if not getattr(model, name):
            raise ConfigError(f"model.{name} is not set; give a number, or let `kvae train` choose it from the corpus")
    if model.head == "none" and model.auxiliary:
        raise ConfigError(
            "model.auxiliary is true with head 'none': the head itself predicts from the features alone; set it to false"
        )
    if objective.alpha > 0 and not model.auxiliary:
        raise ConfigError(
            f"objective.alpha is {objective.alpha} but model.auxiliary is false: set alpha to 0 or auxiliary to true"
        )


def backend_steps() -> Any:
    """The module of `kvae.training` that holds the steps of the backend in use; imported when training starts."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND is {backend!r}; kvae trains on 'tensorflow'")
    return import_module(f"kvae.training.{backend}_step")
