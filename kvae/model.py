"""TextVAE: the parts put together as one functional Keras model with a training step of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

import keras
from keras import layers, ops

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig, ObjectiveConfig
from .heads import RECURRENT
from .objectives import (
    TARGETED,
    bits_per_character,
    classification_terms,
    loss_terms,
    marginal_terms,
    ramp_at,
)
from .parts import Parts, named_kls

NEVER = 2**31 - 1
"""The start of a ramp that waits."""


@keras.saving.register_keras_serializable("kvae")
class TextVAE(keras.Model):
    """A variational autoencoder for text: tokens (B, T) int32 in, a dict of named tensors out.

        logits              (B, T, V)  teacher-forced: position t has read z and the tokens before t
        auxiliary_logits    (B, T, V)  from the expander's features alone, where the model has them
        mean, log_variance  (B, d)     the posterior q(z|x); of a ladder, each level given the sample above it
        z                   (B, d)     a sample of it
        kl_level_0, ...     (B,)       KL(q(z|x) || p(z)) of each level, nats, bottom first
        kl_per_dimension    (B, d)     the same of each dimension, where the prior lets them be told apart
        log_ratio           (B,)       log q(z|x) - log p(z) at the sample, nats
        attribute_logits    (B, K)     q(attribute | text), where there is an attribute

    With `attributes` in the configuration the input is {"tokens": (B, T), "attribute": (B,)}, the attribute -1 where it is
    not known. `compile(optimizer)` needs no loss, the objective is part of the configuration; then `fit`, `evaluate` and
    `predict` take such inputs and nothing else. `parts` holds what decoding and export share. Raises `ConfigError` for
    slots that do not fit each other.
    """

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig | None = None, **kwargs: Any) -> None:
        objective = objective or ObjectiveConfig()
        check_slots(model, objective)
        parts = Parts(model, objective)
        tokens = keras.Input((model.length,), dtype="int32", name="tokens")
        attribute = keras.Input((), dtype="int32", name="attribute") if model.attributes else None
        noise = StandardNoise(parts.noise_size, name="noise")(tokens)
        outputs = parts.outputs(tokens, noise, attribute)
        inputs = tokens if attribute is None else {"tokens": tokens, "attribute": attribute}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

        self.model_config, self.objective_config = model, objective
        self.parts = parts
        self.encoder, self.posterior, self.hierarchy = parts.encoder, parts.posterior, parts.hierarchy
        self.expander, self.head = parts.expander, parts.head
        start = NEVER if objective.ramp_after_convergence else objective.ramp_start
        self.training_steps = self.counter("training_steps", 0)
        self.ramp_start = self.counter("ramp_start", start)
        self.ramp_steps = self.counter("ramp_steps", objective.ramp_steps)
        self.encoder_updates = self.counter("encoder_updates", objective.encoder_updates)
        names = ["loss", "reconstruction", "kl", *named_kls(outputs)]
        names += ["auxiliary"] if model.auxiliary else []
        names += ["mmd"] if objective.mmd else []
        names += ["attribute_kl", "classification", "attribute_accuracy"] if model.attributes else []
        names += ["elbo", "bits_per_character", "beta", "gradient_norm"]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def counter(self, name: str, value: int) -> Any:
        """A whole number that is saved with the model, so that schedules survive a restart."""
        first = keras.initializers.Constant(value)
        return self.add_weight(shape=(), dtype="int32", initializer=first, trainable=False, name=name)

    @property
    def ramp(self) -> Any:
        """Height of the ramp at the present training step, in [0, 1]."""
        return ramp_at(self.objective_config, self.training_steps, self.ramp_start, self.ramp_steps)

    def terms(self, inputs: Any, training: bool = False) -> dict[str, Any]:
        """The objective's terms of a batch at the present training step, per example (B,), nats per sequence."""
        if not self.objective_config.semi_supervised:
            outputs = self(inputs, training=training)
            return self.loss_terms(inputs, outputs)
        values, attribute = len(self.model_config.attributes), inputs["attribute"]
        batch = ops.shape(attribute)[0]
        every = {
            "tokens": ops.tile(inputs["tokens"], (values, 1)),
            "attribute": ops.repeat(ops.arange(values, dtype="int32"), batch),
        }
        outputs = self(every, training=training)  # one pass, so that batch statistics are those of all values
        terms = self.text_terms(every["tokens"], outputs)
        each = [{name: term[v * batch : (v + 1) * batch] for name, term in terms.items()} for v in range(values)]
        logits = outputs["attribute_logits"][:batch]
        return self.with_classification(marginal_terms(each, attribute, logits), attribute, logits)

    def loss_terms(self, inputs: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """As `terms`, from outputs that are there, the attribute taken as given."""
        if not self.model_config.attributes:
            return self.text_terms(inputs, outputs)
        terms = self.text_terms(inputs["tokens"], outputs)
        attribute, logits = inputs["attribute"], outputs["attribute_logits"]
        # A value that the classifier chose has told something about the text: it costs its share of the uniform prior.
        guessed = ops.cast(attribute < 0, "float32")
        terms["attribute_kl"] = guessed * math.log(len(self.model_config.attributes))
        terms["elbo"] = terms["elbo"] + terms["attribute_kl"]
        return self.with_classification(terms, attribute, logits)

    def text_terms(self, tokens: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The terms of `kvae.objectives.loss_terms`."""
        return loss_terms(self.objective_config, tokens, outputs, self.training_steps, self.ramp)

    def with_classification(self, terms: dict[str, Any], attribute: Any, logits: Any) -> dict[str, Any]:
        """The classifier's terms added."""
        added = classification_terms(attribute, logits)
        terms["loss"] = terms["loss"] + self.objective_config.classifier_weight * added["classification"]
        return {**terms, **added}

    def track(self, terms: Mapping[str, Any], gradient_norm: Any = None) -> dict[str, Any]:
        """Add a batch's terms to the running means and return those, under the names of DESIGN's metrics."""
        weights = {"classification": terms.get("labelled")}
        for name, tracker in self.trackers.items():
            if name in terms:
                tracker.update_state(terms[name], sample_weight=weights.get(name))
        if "attribute_accuracy" in self.trackers:
            self.trackers["attribute_accuracy"].update_state(terms["correct"], sample_weight=terms["labelled"])
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

    def encode(self, tokens: Any, attribute: Any = None) -> dict[str, Any]:
        """The codes of tokens (B, T): {"mean", "log_variance"}, (B, code_size)."""
        return self.parts.encode(tokens, attribute)

    def codes(self, noise: Any) -> Any:
        """Standard normal noise (B, noise_size) as codes of the prior (B, code_size)."""
        return self.parts.codes(noise)

    @property
    def inference_weights(self) -> list[Any]:
        """What learns q(z|x)."""
        return [weight for part in self.parts.inference for weight in part.trainable_weights]

    @property
    def generative_weights(self) -> list[Any]:
        """What learns p(x, z)."""
        return [weight for part in self.parts.generative for weight in part.trainable_weights]

    def reset_decoder(self) -> None:
        """Draw the weights of p(x, z) anew and keep those of q(z|x) (Li et al. 2019)."""
        fresh = TextVAE(self.model_config, self.objective_config)
        for ours, new in zip(self.parts.generative, fresh.parts.generative, strict=True):
            for weight, value in zip(ours.weights, new.weights, strict=True):
                weight.assign(value)

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


class StandardNoise(layers.Layer):
    """A row of standard normal noise (size,) for each row of tokens, from a generator that is saved with the model."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.generator = keras.random.SeedGenerator()

    def call(self, tokens: Any) -> Any:
        return keras.random.normal((ops.shape(tokens)[0], self.size), dtype=self.compute_dtype, seed=self.generator)


def inputs_of(data: Any) -> Any:
    """The inputs among what `fit` and `evaluate` feed a step; raises `ConfigError` for targets and sample weights."""
    inputs, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None or weights is not None:
        raise ConfigError("a TextVAE learns from tokens alone: give neither targets nor sample weights")
    return inputs


def check_slots(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Refuse what does not fit together, with the reason. Slots refuse shapes they cannot work with when they are built."""
    policy = keras.config.dtype_policy()
    if policy.compute_dtype != "float32":
        raise ConfigError(f"kvae computes in float32, the policy of Keras is {policy.name!r}; set it to 'float32'")
    for name in ("length", "vocabulary_size"):
        if not getattr(model, name):
            raise ConfigError(f"model.{name} is not set; give a number, or let `kvae train` choose it from the corpus")
    for broken, reason in misfits(model, objective):
        if broken:
            raise ConfigError(reason)
    for part, name, read_by, is_read in partners(model, objective):
        default = next(item.default for item in fields(type(part)) if item.name == name)
        if not is_read and getattr(part, name) != default:
            section = "model" if part is model else "objective"
            raise ConfigError(
                f"{section}.{name} is {getattr(part, name)!r}, but nothing reads it: it belongs to {read_by}; leave it out"
            )


def partners(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[Any, str, str, bool]]:
    """Settings that only some choices read: whose they are, their names, what reads them, and whether that is chosen."""
    convolutional = model.head in ("bytenet", "gated_conv")
    free = objective.penalty.startswith("free_bits")
    return [
        (model, "encoder_embedding", "an encoder", model.encoder != "none"),
        (model, "posterior_scale", "posterior 'batch_normalized'", model.posterior == "batch_normalized"),
        (model, "prior_components", "the priors 'mixture' and 'vamp'", model.prior in ("mixture", "vamp")),
        (model, "prior_rate", "the prior 'autoregressive'", model.prior == "autoregressive"),
        (model, "head_kernel", "the heads 'bytenet' and 'gated_conv'", convolutional),
        (model, "head_dilation", "the heads 'bytenet' and 'gated_conv'", convolutional),
        (model, "head_embedding", "a head with history", model.head != "none"),
        (objective, "kl_target", "the constrained penalties", objective.penalty in TARGETED),
        (objective, "free_bits", "the free-bits penalties", free),
        (objective, "free_bits_over", "the free-bits penalties", free),
        (objective, "cycles", "schedule 'cyclical'", objective.schedule == "cyclical"),
        (objective, "classifier_weight", "a model with attributes", bool(model.attributes)),
    ]


def misfits(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[bool, str]]:
    """What does not make sense, and why."""
    levels, depth = len(model.latent_size), len(model.encoder_units)
    no_latent, ladder = model.latent == "none", levels > 1
    recurrent = model.head in RECURRENT
    independent_prior = model.prior in ("standard", "autoregressive")
    per_dimension = objective.penalty.startswith("free_bits") and objective.free_bits_over == "dimension"
    return [
        (
            model.head == "none" and model.auxiliary,
            "model.auxiliary is true with head 'none': the head itself predicts from the features alone; set it to false",
        ),
        (
            objective.alpha > 0 and not model.auxiliary,
            f"objective.alpha is {objective.alpha} but model.auxiliary is false: set alpha to 0 or auxiliary to true",
        ),
        (
            no_latent != (model.encoder == "none") and not (no_latent and model.attributes),
            f"model.encoder is {model.encoder!r} and model.latent {model.latent!r}: a language model has neither "
            "(an encoder that only classifies attributes may stay), a VAE needs both",
        ),
        (
            bool(model.attributes) and model.encoder == "none",
            "model.attributes needs an encoder, which tells the attribute of a text; model.encoder is 'none'",
        ),
        (len(model.attributes) == 1, "model.attributes has one value: a label that never differs; give at least two"),
        (no_latent and ladder, "model.latent_size has several levels but model.latent is 'none'; give one size"),
        (
            no_latent and model.expander != "repeat",
            "model.latent is 'none': without a code there is nothing to expand; set model.expander to 'repeat'",
        ),
        (
            no_latent and model.expander_base > 0,
            "model.latent is 'none': without a code there is nothing to expand; set model.expander_base to 0",
        ),
        (
            no_latent and (model.head == "none" or model.auxiliary),
            "model.latent is 'none': without history nothing is left to predict from; use another head, and set "
            "model.auxiliary to false",
        ),
        (
            no_latent and objective.input_dropout >= 1.0,
            "objective.input_dropout is 1: a language model without history has nothing left to predict from; lower it",
        ),
        (
            no_latent and (model.prior != "standard" or model.posterior != "free"),
            "model.latent is 'none': prior and posterior have nothing to act on; set them to 'standard' and 'free'",
        ),
        (
            no_latent and objective.penalty != "annealed",
            f"objective.penalty {objective.penalty!r}: with model.latent 'none' there is no KL; use 'annealed'",
        ),
        (
            ladder and depth < levels,
            f"a ladder of {levels} levels (model.latent_size) needs as many encoder layers, model.encoder_units has {depth}",
        ),
        (
            ladder and model.posterior != "free",
            "model.posterior 'batch_normalized' bounds the KL of one level, a ladder merges its evidence: use 'free'",
        ),
        (
            model.encoder_bidirectional and model.encoder not in RECURRENT,
            f"model.encoder_bidirectional: encoder {model.encoder!r} sees both sides already; set it to false",
        ),
        (
            model.head_reads != "steps" and not recurrent,
            f"model.head_reads is {model.head_reads!r} but head {model.head!r} has no state to set; use 'steps'",
        ),
        (
            model.head_reads != "steps" and no_latent,
            "model.head_reads: a language model has no features to start from; use 'steps'",
        ),
        (
            recurrent and model.head_layers > 1,
            f"model.head_layers is {model.head_layers}: head {model.head!r} has one layer; widen it with model.head_units",
        ),
        (
            per_dimension and not independent_prior,
            f"objective.free_bits_over 'dimension': prior {model.prior!r} has no KL of each dimension; use 'total'",
        ),
        (
            objective.mmd > 0 and (model.prior != "standard" or ladder or no_latent),
            "objective.mmd compares codes with N(0, I): it needs one level and the 'standard' prior; set it to 0",
        ),
        (
            objective.penalty in TARGETED
            and (objective.ramp_after_convergence or objective.ramp_start > 0 or objective.warm_start_steps > 0),
            f"objective.penalty {objective.penalty!r}: the ramp raises the KL target, and a target that waits at 0 empties the "
            "code; set ramp_start and warm_start_steps to 0 and ramp_after_convergence to false",
        ),
        (
            objective.ramp_after_convergence and objective.schedule == "constant",
            "objective.ramp_after_convergence: schedule 'constant' has no ramp to hold back; use another",
        ),
        (
            objective.semi_supervised and objective.penalty in ("constrained", "free_bits"),
            f"objective.semi_supervised: penalty {objective.penalty!r} takes the mean over the batch, in which texts stand "
            "with labels they do not have; use 'annealed', 'constrained_per_example' or 'free_bits_mask'",
        ),
        (
            model.head_reads == "state" and (model.latent == "map" or model.expander == "deconv"),
            "model.head_reads 'state' sees the features of the first position alone, which needs a dense latent and expander "
            "'repeat'; use 'steps' or 'both'",
        ),
        (
            objective.input_dropout > 0 and model.head == "none",
            "objective.input_dropout hides previous symbols, which head 'none' never sees; set it to 0",
        ),
        (
            objective.warm_start_steps > 0 and no_latent,
            "objective.warm_start_steps: a language model has no encoder to keep; set it to 0",
        ),
        (
            model.posterior == "batch_normalized" and model.posterior_scale == 0,
            "model.posterior_scale is 0: means that never differ tell nothing; give a number above 0",
        ),
        (
            len(set(model.attributes)) < len(model.attributes),
            f"model.attributes names a value twice: {list(model.attributes)}",
        ),
        (
            objective.semi_supervised and not model.attributes,
            "objective.semi_supervised needs model.attributes; name the labels with data.labels (--labels FILE)",
        ),
        (
            objective.encoder_updates > 0 and no_latent,
            "objective.encoder_updates: a language model has no encoder to update; set it to 0",
        ),
    ]


def backend_steps() -> Any:
    """The module of `kvae.training` that holds the steps of the backend in use; imported when training starts."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND is {backend!r}; kvae trains on 'tensorflow'")
    return import_module(f"kvae.training.{backend}_step")
