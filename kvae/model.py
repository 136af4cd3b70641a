"""TextVAE: a functional Keras model made of the parts, with a training step of its own."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
from keras import ops

from kvae.serving.errors import ConfigError

from . import learning_rates as _register_schedules  # noqa: F401
from .blocks import StandardNoise, repeated_rows
from .configuration import ModelConfig, ObjectiveConfig, described
from .inputs import FirstBatchCheck, prepare_arguments
from .misfits import check_slots
from .objectives import (
    LOSSES,
    classification_terms,
    guessed_attribute_nats,
    loss_terms,
    marginal_terms,
    ramp_at,
)
from .parts import Parts
from .replicas import repeated_batch
from .steps import backend_steps
from .tensors import Tensor
from .tracking import add_terms, bits_name, means, trackers_of

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
        self.bits = bits_name(model)
        self.trackers = trackers_of(model, objective, outputs)

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
            samples = self.objective_config.importance_samples
            outputs = self.outputs_of_codes(inputs, samples, training)
            return self.loss_terms(inputs, outputs, samples)
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

    def outputs_of_codes(
        self, inputs: Tensor | Mapping[str, Tensor], samples: int, training: bool = False
    ) -> dict[str, Tensor]:
        """The outputs for `samples` codes of each text, text by text (`Parts.outputs`)."""
        if samples == 1:
            outputs: dict[str, Tensor] = self(inputs, training=training)
            return outputs
        has_attribute = bool(self.model_config.attributes)
        tokens, attribute = (
            (inputs["tokens"], inputs["attribute"]) if has_attribute else (inputs, None)
        )
        noise = self.get_layer("noise")(repeated_rows(tokens, samples))
        return self.parts.outputs(tokens, noise, attribute, training, samples)

    def loss_terms(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        samples: int = 1,
    ) -> dict[str, Tensor]:
        """`terms` from outputs of the model; the attribute is not marginalised."""
        if not self.model_config.attributes:
            return self.text_terms(inputs, outputs, samples)
        terms = self.text_terms(inputs["tokens"], outputs, samples)
        attribute, logits = inputs["attribute"], outputs["attribute_logits"]
        terms["attribute_kl"] = guessed_attribute_nats(attribute, len(self.model_config.attributes))
        for name in ("elbo", "importance_weighted_nll"):
            if name in terms:
                terms[name] = terms[name] + terms["attribute_kl"]
        return self.with_classification(terms, attribute, logits)

    def text_terms(
        self, tokens: Tensor, outputs: Mapping[str, Tensor], samples: int = 1
    ) -> dict[str, Tensor]:
        """`kvae.objectives.loss_terms` at the current training step."""
        config, step = self.objective_config, self.training_steps
        return loss_terms(config, tokens, outputs, step, self.ramp, samples)

    def with_classification(
        self, terms: dict[str, Tensor], attribute: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """The terms together with those of the classifier, which join the loss."""
        added = classification_terms(attribute, logits)
        nats = self.objective_config.classifier_weight * added["classification"]
        losses = {name: terms[name] + nats for name in LOSSES if name in terms}
        return {**terms, **losses, **added}

    def track(
        self, terms: Mapping[str, Tensor], gradient_norm: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add the terms of a batch to the running means of the metrics and return these."""
        add_terms(self.trackers, terms, self.bits)
        if gradient_norm is not None:
            # With loss scaling (float16) the optimizer and the mean skip a step that overflows.
            scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
            valid = ops.isfinite(gradient_norm) if scaled else True
            self.trackers["gradient_norm"].update_state(
                ops.where(valid, gradient_norm, 0.0), sample_weight=valid
            )
        return {
            name: value
            for name, value in means(self.trackers).items()
            if name != "gradient_norm" or gradient_norm is not None
        }

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

    @property
    def weights_of_losses(self) -> dict[str, list[keras.Variable]]:
        """The trainable weights that follow the gradient of each term of `LOSSES`."""
        if self.objective_config.importance_gradient == "standard":
            return {"loss": self.trainable_weights}
        return dict(zip(LOSSES, (self.generative_weights, self.inference_weights), strict=True))

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
