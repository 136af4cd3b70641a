"""TextVAE: a functional Keras model made of the parts, with a training step of its own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
from keras import ops

from kvae.serving.errors import ConfigError

from . import learning_rates as _register_schedules  # noqa: F401
from .blocks import StandardNoise
from .configuration import ModelConfig, ObjectiveConfig, described
from .inputs import FirstBatchCheck, prepare_arguments
from .misfits import check_slots
from .objectives import (
    bits_per_character,
    classification_terms,
    guessed_attribute_nats,
    loss_terms,
    marginal_terms,
    ramp_at,
)
from .parts import Parts, kl_names
from .replicas import is_split, mean_over_shards, repeated_batch, text_weights
from .steps import backend_steps
from .tensors import Tensor

NOT_QUANTIZED = (
    "quantize: the `.keras` file of a quantized TextVAE would not load; "
    "`kvae export --int8`, or write_bundle(..., weights='int8'), writes a bundle with int8 weights"
)

NEVER = 2**31 - 1
"""`ramp_start` while the ramp waits for convergence."""


@keras.saving.register_keras_serializable("kvae")
class TextVAE(keras.Model):
    """A variational autoencoder for text: tokens (B, T) int32 in, a dict of named tensors out.

        logits              (B, T, V)  teacher-forced: position t depends on z and earlier tokens
        auxiliary_logits    (B, T, V)  from the features of the expander alone, if configured
        bag_logits          (B, V)     of the tokens in any order from the code alone, if configured
        mean, log_variance  (B, d)     posterior q(z|x); in a ladder given the sample above it; of
                                       a flow the code at the mean of its base, and the spread
        z                   (B, d)     a sample of the posterior
        kl_level_0, ...     (B,)       KL(q(z|x) || p(z)) of each level, nats, bottom first
        kl_per_dimension    (B, d)     KL of each dimension, if the KL is a sum over them
        log_ratio           (B,)       log q(z|x) - log p(z) at the sample, nats
        attribute_logits    (B, K)     q(attribute | text), if the model has attributes

    A model with `attributes` takes {"tokens": (B, T), "attribute": (B,)}, where attribute -1 means
    that the label is not known. `compile(optimizer)` needs no loss: the objective is part of the
    configuration. `fit`, `evaluate` and `predict` take these inputs; `fit` and `evaluate` also take
    `sample_weight` (n,), and the loss and all metrics are then weighted means. A dataset may yield
    (inputs, None, weights). `parts` holds the objects that decoding and export share. Raises
    `ConfigError` if slots do not fit each other.
    """

    def __init__(
        self, model: ModelConfig, objective: ObjectiveConfig | None = None, **kwargs: Any
    ) -> None:
        objective = objective or ObjectiveConfig()
        if "dtype" in kwargs:
            raise ConfigError(
                "dtype: a TextVAE takes its precision from Keras; "
                "call keras.config.set_dtype_policy before it is made"
            )
        check_slots(model, objective)
        parts = Parts(model, objective)
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        attribute = keras.Input((), dtype="int32", name="attribute") if model.attributes else None
        noise = StandardNoise(parts.noise_size, name="noise", dtype="float32")(tokens)
        outputs = parts.outputs(tokens, noise, attribute)
        inputs = tokens if attribute is None else {"tokens": tokens, "attribute": attribute}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

        self.model_config, self.objective_config = model, objective
        self.parts = parts
        self.encoder, self.posterior, self.flow, self.hierarchy = (
            parts.encoder,
            parts.posterior,
            parts.flow,
            parts.hierarchy,
        )
        self.expander, self.head = parts.expander, parts.head
        start = NEVER if objective.ramp_after_convergence else objective.ramp_start
        self.training_steps = self.counter("training_steps", 0)
        self.ramp_start = self.counter("ramp_start", start)
        self.ramp_steps = self.counter("ramp_steps", objective.ramp_steps)
        self.encoder_updates = self.counter("encoder_updates", objective.encoder_updates)
        names = ["loss", "reconstruction", "kl", *kl_names(outputs)]
        names += ["auxiliary"] if model.auxiliary else []
        added = ("bag_of_words", "mmd", "moments")
        names += [name for name in added if getattr(objective, name)]
        names += (
            ["attribute_kl", "classification", "attribute_accuracy"] if model.attributes else []
        )
        self.bits = "bits_per_character" if model.tokenizer == "char" else "bits_per_token"
        names += ["elbo", self.bits, "beta", "gradient_norm"]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def __repr__(self) -> str:
        return f"<TextVAE: {described(self.model_config)}, {self.count_params():,} parameters>"

    def counter(self, name: str, value: int) -> keras.Variable:
        """An integer weight that is saved with the model, so that schedules survive a restart."""
        initializer = keras.initializers.Constant(value)
        return self.add_weight(
            shape=(), dtype="int32", initializer=initializer, trainable=False, name=name
        )

    @property
    def ramp(self) -> Tensor:
        """Height of the ramp at the current training step, in [0, 1]."""
        return ramp_at(self.objective_config, self.training_steps, self.ramp_start, self.ramp_steps)

    def terms(
        self, inputs: Tensor | Mapping[str, Tensor], training: bool = False
    ) -> dict[str, Tensor]:
        """The terms of the objective at the current training step, (B,), nats per sequence."""
        if not self.objective_config.semi_supervised:
            outputs = self(inputs, training=training)
            return self.loss_terms(inputs, outputs)
        values, attribute = len(self.model_config.attributes), inputs["attribute"]
        batch = ops.shape(attribute)[0]
        all_values = {
            "tokens": ops.tile(inputs["tokens"], (values, 1)),
            "attribute": ops.repeat(ops.arange(values, dtype="int32"), batch),
        }
        # One pass, so that batch normalisation sees all values.
        outputs = self(all_values, training=training)
        with repeated_batch(values):
            terms = self.text_terms(all_values["tokens"], outputs)
        per_value = [
            {name: term[v * batch : (v + 1) * batch] for name, term in terms.items()}
            for v in range(values)
        ]
        logits = outputs["attribute_logits"][:batch]
        return self.with_classification(
            marginal_terms(per_value, attribute, logits), attribute, logits
        )

    def loss_terms(
        self, inputs: Tensor | Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """`terms` from outputs of the model; the attribute is not marginalised."""
        if not self.model_config.attributes:
            return self.text_terms(inputs, outputs)
        terms = self.text_terms(inputs["tokens"], outputs)
        attribute, logits = inputs["attribute"], outputs["attribute_logits"]
        terms["attribute_kl"] = guessed_attribute_nats(attribute, len(self.model_config.attributes))
        terms["elbo"] = terms["elbo"] + terms["attribute_kl"]
        return self.with_classification(terms, attribute, logits)

    def text_terms(self, tokens: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`kvae.objectives.loss_terms` at the current training step."""
        return loss_terms(self.objective_config, tokens, outputs, self.training_steps, self.ramp)

    def with_classification(
        self, terms: dict[str, Tensor], attribute: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """The terms together with those of the classifier, which join the loss."""
        added = classification_terms(attribute, logits)
        terms["loss"] = (
            terms["loss"] + self.objective_config.classifier_weight * added["classification"]
        )
        return {**terms, **added}

    def track(
        self, terms: Mapping[str, Tensor], gradient_norm: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add the terms of a batch to the running means of the metrics and return these.

        Means are weighted by the weights of the texts. Those of the classifier include labelled
        texts alone; the bits per position are also weighted by the number of positions.
        """
        positions, sample_weights = terms["positions"], text_weights()
        measured = {name: terms[name] for name in self.trackers if name in terms}
        measured[self.bits] = bits_per_character(terms["elbo"], positions)
        counts = {self.bits: positions}
        if "attribute_accuracy" in self.trackers:
            measured["attribute_accuracy"] = terms["correct"]
            counts |= dict.fromkeys(("classification", "attribute_accuracy"), terms["labelled"])
        for name, values in measured.items():
            factors = [
                factor for factor in (counts.get(name), sample_weights) if factor is not None
            ]
            weights = functools.reduce(operator.mul, factors) if factors else None
            self.trackers[name].update_state(values, sample_weight=weights)
        if gradient_norm is not None:
            # With loss scaling (float16) the optimizer and the mean skip a step that overflows.
            scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
            valid = ops.isfinite(gradient_norm) if scaled else True
            self.trackers["gradient_norm"].update_state(
                ops.where(valid, gradient_norm, 0.0), sample_weight=valid
            )
        return {
            name: value
            for name, value in self.means().items()
            if name != "gradient_norm" or gradient_norm is not None
        }

    def means(self) -> dict[str, Tensor]:
        """The running means of the metrics, over all shards of a split batch."""
        if not is_split():
            return {name: tracker.result() for name, tracker in self.trackers.items()}
        trackers = self.trackers.values()
        totals = mean_over_shards(ops.stack([tracker.total + 0.0 for tracker in trackers]))
        counts = mean_over_shards(ops.stack([tracker.count + 0.0 for tracker in trackers]))
        return dict(zip(self.trackers, ops.unstack(ops.divide_no_nan(totals, counts)), strict=True))

    @property
    def metrics(self) -> list[keras.Metric]:
        return list(self.trackers.values())

    def encode(self, tokens: Tensor, attribute: Tensor | None = None) -> dict[str, Tensor]:
        """The latent codes of tokens (B, T): {"mean", "log_variance"}, (B, code_size)."""
        return self.parts.encode(tokens, attribute)

    def codes(self, noise: Tensor) -> Tensor:
        """Latent codes (B, code_size) of the prior from standard normal noise (B, noise_size)."""
        return self.parts.codes(noise)

    def bound(self, tokens: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The bound on -log p(tokens) in nats: {"reconstruction", "kl"}, (B,) each.

        Their sum is an upper bound. Latent codes of tokens (B, T) are drawn with noise
        (B, noise_size). The classifier guesses an attribute; the cost of the guess is part of `kl`.
        """
        attribute = -ops.ones_like(tokens[:, 0]) if self.model_config.attributes else None
        outputs = self.parts.outputs(tokens, noise, attribute, training=False)
        inputs = tokens if attribute is None else {"tokens": tokens, "attribute": attribute}
        terms = self.loss_terms(inputs, outputs)
        return {
            "reconstruction": terms["reconstruction"],
            "kl": terms["kl"] + terms.get("attribute_kl", 0.0),
        }

    @property
    def inference_weights(self) -> list[keras.Variable]:
        """Trainable weights of q(z|x)."""
        return [weight for part in self.parts.inference for weight in part.trainable_weights]

    @property
    def generative_weights(self) -> list[keras.Variable]:
        """Trainable weights of p(x, z)."""
        return [weight for part in self.parts.generative for weight in part.trainable_weights]

    def in_float32(self) -> TextVAE:
        """This model, or a float32 copy if it has another precision, for evaluation and export."""
        if self.dtype_policy.name == "float32":
            return self
        with computing_in("float32"):
            copy = TextVAE(self.model_config, self.objective_config)
        copy.set_weights(self.get_weights())
        return copy

    def reset_decoder(self) -> None:
        """Initialise the weights of p(x, z) again and keep those of q(z|x) (Li et al. 2019)."""
        other = TextVAE(self.model_config, self.objective_config)
        for part, new in zip(self.parts.generative, other.parts.generative, strict=True):
            for weight, value in zip(part.weights, new.weights, strict=True):
                weight.assign(value)

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **options: Any
    ) -> None:
        """As in Keras; raises `ConfigError` for a loss or metric: the configuration has one."""
        for name, value in {"loss": loss, "metrics": metrics, **options}.items():
            if name in ("loss", "loss_weights", "metrics", "weighted_metrics") and value:
                raise ConfigError(
                    f"compile({name}=...): a TextVAE minimises the objective of its configuration "
                    f"and reports its terms; leave it out"
                )
        optimizer = keras.optimizers.get(optimizer)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if self.dtype_policy.name == "mixed_float16" and not scaled:
            # Keras would wrap it too, but save it without its scale; the file would not load.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(optimizer, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile on loading a `.keras` file, which Keras leaves to classes with own `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """As in Keras, but create the variables of the optimizer first.

        TensorFlow traces a step that creates them twice. Raises `ConfigError` without an optimizer.
        """
        if self.optimizer is None:
            raise ConfigError(
                "compile(optimizer=None): a TextVAE does not train without one; "
                "give one, such as 'adam'"
            )
        strategy = getattr(self, "distribute_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with checked inputs (`kvae.inputs`)."""
        return self.run_checked(super().fit, arguments, options)

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with checked inputs."""
        if "_use_cached_eval_dataset" in options:  # `fit` has checked its validation data
            return super().evaluate(*arguments, **options)
        return self.run_checked(super().evaluate, arguments, options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with checked inputs."""
        return self.run_checked(super().predict, arguments, options)

    def train_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with checked inputs."""
        return self.run_checked(super().train_on_batch, arguments, options)

    def test_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with checked inputs."""
        return self.run_checked(super().test_on_batch, arguments, options)

    def predict_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with checked inputs."""
        return self.run_checked(super().predict_on_batch, arguments, options)

    def run_checked(
        self, method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Call a method of Keras with checked inputs; if it fails the model keeps its weights.

        Raises `ConfigError` and `DataError` for inputs that do not fit.
        """
        given = inspect.signature(method).bind(*arguments, **options).arguments
        steps = backend_steps()
        check = FirstBatchCheck(self.model_config, steps.call_on_first_batch)
        try:
            with steps.keeping_weights(self):
                return method(**prepare_arguments(self.model_config, given, check))
        except Exception:
            if check.error is not None:
                raise check.error from None
            raise

    def train_step(self, *arguments: Any) -> Any:
        """One optimisation step; each backend has its own in `kvae.training`."""
        return backend_steps().train_step(self, *arguments)

    def test_step(self, *arguments: Any) -> Any:
        """One evaluation step; each backend has its own."""
        return backend_steps().test_step(self, *arguments)

    def predict_step(self, *arguments: Any) -> Any:
        """The outputs of a batch; each backend has its own."""
        return backend_steps().predict_step(self, *arguments)

    def quantize(self, *arguments: Any, **options: Any) -> None:
        """Raise `ConfigError`: see `refuse_quantized`."""
        raise ConfigError(NOT_QUANTIZED)

    def save(self, *arguments: Any, **options: Any) -> None:
        """As in Keras; raises `ConfigError` for a file that would not load, before writing it."""
        path = str(arguments[0] if arguments else options.get("filepath"))
        if path.endswith((".h5", ".hdf5")):
            raise ConfigError(
                f"save: a TextVAE does not load from the old HDF5 format; "
                f"give a path that ends in .keras, got {path}"
            )
        self.refuse_quantized()
        super().save(*arguments, **options)

    def export(self, filepath: str | Path, format: str = "tf_saved_model", **options: Any) -> None:  # noqa: A002
        """As in Keras; raises `ConfigError` for formats whose graphs Keras does not verify."""
        if format != "tf_saved_model":
            raise ConfigError(
                f"export(format={format!r}): Keras exports a TextVAE as a SavedModel only; "
                f"for ONNX graphs use `kvae export` or kvae.export.bundle.write_bundle"
            )
        super().export(filepath, format=format, **options)

    def add_loss(self, loss: Any) -> None:
        """Raise `ConfigError`: the training step would not use the loss."""
        raise ConfigError(
            "add_loss: a TextVAE minimises the objective of its configuration; leave it out"
        )

    def refuse_quantized(self) -> None:
        """Raise `ConfigError` if a layer was quantized, since the `.keras` file would not load.

        The file holds the configuration of the model, not that of its layers.
        """
        policies = (getattr(layer, "dtype_policy", None) for layer in self._flatten_layers())
        if any(
            isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy) for policy in policies
        ):
            raise ConfigError(NOT_QUANTIZED)

    def get_config(self) -> dict[str, Any]:
        self.refuse_quantized()
        frozen = [index for index, layer in enumerate(self.nested_layers()) if not layer.trainable]
        return {
            "name": self.name,
            "model": self.model_config.to_dict(),
            "objective": self.objective_config.to_dict(),
            **({"frozen": frozen} if frozen else {}),
        }

    def nested_layers(self) -> list[keras.layers.Layer]:
        """All layers inside the model, in an order that depends on the configuration alone."""
        return list(self._flatten_layers(include_self=False))

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TextVAE:
        parts = {
            "model": ModelConfig.from_dict(config["model"]),
            "objective": ObjectiveConfig.from_dict(config["objective"]),
        }
        options = {name: value for name, value in config.items() if name != "frozen"}
        model = cls(**{**options, **parts})
        layers = model.nested_layers()
        for index in config.get("frozen", ()):
            layers[index].trainable = False
        return model


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Context in which new layers compute in `precision`, the name of a Keras dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def as_int(counter: keras.Variable) -> int:
    """The value of a counter of a model."""
    return int(ops.convert_to_numpy(ops.convert_to_tensor(counter)))
