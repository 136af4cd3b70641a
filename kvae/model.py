"""TextVAE: the parts put together as one functional Keras model with a training step of its own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from kvae.serving.errors import ConfigError

from . import learning_rates as _registers_the_schedules  # noqa: F401
from .blocks import Part
from .configuration import ModelConfig, ObjectiveConfig
from .inputs import FirstBatch, prepared
from .misfits import check_slots
from .objectives import (
    bits_per_character,
    classification_terms,
    loss_terms,
    marginal_terms,
    price_of_guesses,
    ramp_at,
)
from .parts import Parts, kl_names
from .replicas import drawn, each_repeated, everywhere, is_split, weights_of_texts
from .steps import backend_steps

NOT_QUANTIZED = (
    "quantize: the `.keras` file of a quantized TextVAE would not load; `kvae export --int8`, or write_bundle(..., int8=True), "
    "writes a bundle with weights in eight bits"
)

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
    `predict` take such inputs and, but for `predict`, `sample_weight` (n,): what is learned and reported are weighted means.
    A dataset may yield (inputs, None, weights). `parts` holds what decoding and export share. Raises `ConfigError` for slots
    that do not fit each other.
    """

    def __init__(self, model: ModelConfig, objective: ObjectiveConfig | None = None, **kwargs: Any) -> None:
        objective = objective or ObjectiveConfig()
        if "dtype" in kwargs:
            raise ConfigError(
                "dtype: a TextVAE takes its precision from Keras; call keras.config.set_dtype_policy before it is made"
            )
        check_slots(model, objective)
        parts = Parts(model, objective)
        tokens = keras.Input((None if model.any_length else model.length,), dtype="int32", name="tokens")
        attribute = keras.Input((), dtype="int32", name="attribute") if model.attributes else None
        noise = StandardNoise(parts.noise_size, name="noise", dtype="float32")(tokens)
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
        names = ["loss", "reconstruction", "kl", *kl_names(outputs)]
        names += ["auxiliary"] if model.auxiliary else []
        names += ["mmd"] if objective.mmd else []
        names += ["attribute_kl", "classification", "attribute_accuracy"] if model.attributes else []
        self.bits = "bits_per_character" if model.tokenizer == "char" else "bits_per_token"
        names += ["elbo", self.bits, "beta", "gradient_norm"]
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
        with each_repeated(values):
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
        terms["attribute_kl"] = price_of_guesses(attribute, len(self.model_config.attributes))
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
        """Add a batch's terms to the running means and return those, under the names of DESIGN's metrics. A text counts by its
        weight, in the classifier's means where it has a label, in the bits by its positions too."""
        positions, of_texts = terms["positions"], weights_of_texts()
        measured = {name: terms[name] for name in self.trackers if name in terms}
        measured[self.bits] = bits_per_character(terms["elbo"], positions)
        counts = {self.bits: positions}
        if "attribute_accuracy" in self.trackers:
            measured["attribute_accuracy"] = terms["correct"]
            counts |= dict.fromkeys(("classification", "attribute_accuracy"), terms["labelled"])
        for name, values in measured.items():
            factors = [factor for factor in (counts.get(name), of_texts) if factor is not None]
            weights = functools.reduce(operator.mul, factors) if factors else None
            self.trackers[name].update_state(values, sample_weight=weights)
        if gradient_norm is not None:
            # Where the loss is scaled (float16) a step that overflows is left out by the optimizer, and here.
            scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
            taken = ops.isfinite(gradient_norm) if scaled else True
            self.trackers["gradient_norm"].update_state(ops.where(taken, gradient_norm, 0.0), sample_weight=taken)
        return {
            name: value for name, value in self.means().items() if name != "gradient_norm" or gradient_norm is not None
        }

    def means(self) -> dict[str, Any]:
        """The running means, over all parts of a batch that is split."""
        if not is_split():
            return {name: tracker.result() for name, tracker in self.trackers.items()}
        trackers = self.trackers.values()
        totals = everywhere(ops.stack([tracker.total + 0.0 for tracker in trackers]))
        counts = everywhere(ops.stack([tracker.count + 0.0 for tracker in trackers]))
        return dict(zip(self.trackers, ops.unstack(ops.divide_no_nan(totals, counts)), strict=True))

    @property
    def metrics(self) -> list[keras.Metric]:
        return list(self.trackers.values())

    def encode(self, tokens: Any, attribute: Any = None) -> dict[str, Any]:
        """The codes of tokens (B, T): {"mean", "log_variance"}, (B, code_size)."""
        return self.parts.encode(tokens, attribute)

    def codes(self, noise: Any) -> Any:
        """Standard normal noise (B, noise_size) as codes of the prior (B, code_size)."""
        return self.parts.codes(noise)

    def bound(self, tokens: Any, noise: Any) -> dict[str, Any]:
        """{"reconstruction", "kl"} of tokens (B, T), nats, (B,), with codes drawn by noise (B, noise_size): their
        sum bounds -log p(tokens) from above. An attribute is guessed, and what that costs is part of `kl`."""
        attribute = -ops.ones_like(tokens[:, 0]) if self.model_config.attributes else None
        outputs = self.parts.outputs(tokens, noise, attribute, training=False)
        inputs = tokens if attribute is None else {"tokens": tokens, "attribute": attribute}
        terms = self.loss_terms(inputs, outputs)
        return {"reconstruction": terms["reconstruction"], "kl": terms["kl"] + terms.get("attribute_kl", 0.0)}

    @property
    def inference_weights(self) -> list[Any]:
        """What learns q(z|x)."""
        return [weight for part in self.parts.inference for weight in part.trainable_weights]

    @property
    def generative_weights(self) -> list[Any]:
        """What learns p(x, z)."""
        return [weight for part in self.parts.generative for weight in part.trainable_weights]

    def in_float32(self) -> TextVAE:
        """The model that computes in float32 with these weights, for evaluation and export: itself where it does already."""
        if self.dtype_policy.name == "float32":
            return self
        with computing_in("float32"):
            twin = TextVAE(self.model_config, self.objective_config)
        twin.set_weights(self.get_weights())
        return twin

    def reset_decoder(self) -> None:
        """Draw the weights of p(x, z) anew and keep those of q(z|x) (Li et al. 2019)."""
        fresh = TextVAE(self.model_config, self.objective_config)
        for ours, new in zip(self.parts.generative, fresh.parts.generative, strict=True):
            for weight, value in zip(ours.weights, new.weights, strict=True):
                weight.assign(value)

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **options: Any) -> None:
        """As in Keras, but without losses and metrics: the objective stands in the configuration. Raises `ConfigError`."""
        for name, value in {"loss": loss, "metrics": metrics, **options}.items():
            if name in ("loss", "loss_weights", "metrics", "weighted_metrics") and value:
                raise ConfigError(
                    f"compile({name}=...): a TextVAE learns by its objective configuration and reports its terms; leave it out"
                )
        optimizer = keras.optimizers.get(optimizer)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if self.dtype_policy.name == "mixed_float16" and not scaled:
            # Keras would do it too, but save the optimizer without its scale, which then does not load.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(optimizer, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """What loading a `.keras` file calls; Keras leaves it to classes with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """As in Keras, but the optimizer's variables are there before: TensorFlow traces a step twice that makes them."""
        if self.optimizer is None:
            raise ConfigError("compile(optimizer=None): a TextVAE does not train without one; give one, such as 'adam'")
        strategy = getattr(self, "distribute_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """As in Keras, with inputs that are looked at once (`kvae.inputs`)."""
        return self.looking(super().fit, arguments, options)

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """As `fit`."""
        if "_use_cached_eval_dataset" in options:  # `fit` has looked at its validation data
            return super().evaluate(*arguments, **options)
        return self.looking(super().evaluate, arguments, options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As `fit`."""
        return self.looking(super().predict, arguments, options)

    def train_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """As `fit`."""
        return self.looking(super().train_on_batch, arguments, options)

    def test_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """As `fit`."""
        return self.looking(super().test_on_batch, arguments, options)

    def predict_on_batch(self, *arguments: Any, **options: Any) -> Any:
        """As `fit`."""
        return self.looking(super().predict_on_batch, arguments, options)

    def looking(self, method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A method of Keras with checked inputs; where it fails the model keeps its weights. Raises what `prepared` raises."""
        given = inspect.signature(method).bind(*arguments, **options).arguments
        steps = backend_steps()
        look = FirstBatch(self.model_config, steps.watched)
        try:
            with steps.keeping_weights(self):
                return method(**prepared(self.model_config, given, look))
        except Exception:
            if look.error is not None:
                raise look.error from None
            raise

    def train_step(self, *arguments: Any) -> Any:
        """One optimisation step, written once per backend in `kvae.training`."""
        return backend_steps().train_step(self, *arguments)

    def test_step(self, *arguments: Any) -> Any:
        """One evaluation step, as `train_step`."""
        return backend_steps().test_step(self, *arguments)

    def predict_step(self, *arguments: Any) -> Any:
        """The outputs of a batch, as `train_step`."""
        return backend_steps().predict_step(self, *arguments)

    def quantize(self, *arguments: Any, **options: Any) -> None:
        """Refused, as `refuse_quantized` says."""
        raise ConfigError(NOT_QUANTIZED)

    def save(self, *arguments: Any, **options: Any) -> None:
        """As in Keras; raises `ConfigError` before anything is written that would not load."""
        path = str(arguments[0] if arguments else options.get("filepath"))
        if path.endswith((".h5", ".hdf5")):
            raise ConfigError(
                f"save: a TextVAE does not load from the old HDF5 format; give a path that ends in .keras, got {path}"
            )
        self.refuse_quantized()
        super().save(*arguments, **options)

    def export(self, filepath: Any, format: str = "tf_saved_model", **options: Any) -> None:  # noqa: A002
        """As in Keras, a SavedModel alone; raises `ConfigError` for other formats, whose graphs Keras does not compare."""
        if format != "tf_saved_model":
            raise ConfigError(
                f"export(format={format!r}): Keras writes a SavedModel alone of a TextVAE; `kvae export` and "
                f"kvae.export.bundle.write_bundle write ONNX graphs"
            )
        super().export(filepath, format=format, **options)

    def add_loss(self, loss: Any) -> None:
        """Refused: the training step would not see it."""
        raise ConfigError("add_loss: a TextVAE learns by its objective configuration alone; leave it out")

    def refuse_quantized(self) -> None:
        """Raise `ConfigError` where a layer was quantized by itself: a file names the configuration, not the layers, and would
        not load."""
        policies = (getattr(layer, "dtype_policy", None) for layer in self._flatten_layers())
        if any(isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy) for policy in policies):
            raise ConfigError(NOT_QUANTIZED)

    def get_config(self) -> dict[str, Any]:
        self.refuse_quantized()
        frozen = [number for number, layer in enumerate(self.every_layer()) if not layer.trainable]
        return {
            "name": self.name,
            "model": self.model_config.to_dict(),
            "objective": self.objective_config.to_dict(),
            **({"frozen": frozen} if frozen else {}),
        }

    def every_layer(self) -> list[Any]:
        """All layers within, in an order that follows from the configuration."""
        return list(self._flatten_layers(include_self=False))

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TextVAE:
        parts = {
            "model": ModelConfig.from_dict(config["model"]),
            "objective": ObjectiveConfig.from_dict(config["objective"]),
        }
        made = cls(**{**{name: value for name, value in config.items() if name != "frozen"}, **parts})
        layers = made.every_layer()
        for place in config.get("frozen", ()):
            layers[place].trainable = False
        return made


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers made within this compute in that precision, a dtype policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def number(counter: Any) -> int:
    """What a counter of a model stands at."""
    return int(ops.convert_to_numpy(ops.convert_to_tensor(counter)))


class StandardNoise(Part):
    """A row of standard normal noise (size,) for each row of tokens, from a generator that is saved with the model."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.generator = keras.random.SeedGenerator()

    def call(self, tokens: Any) -> Any:
        def draw(rows: Any) -> Any:
            return keras.random.normal((rows, self.size), dtype=self.compute_dtype, seed=self.generator)

        return drawn(draw, ops.shape(tokens)[0])
