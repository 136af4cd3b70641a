"""Combinations of settings that do not work, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import get_args, get_type_hints

import keras

from kvae.serving.errors import ConfigError

from .configuration import Config, ModelConfig, ObjectiveConfig, TrainingConfig
from .slots import (
    ENCODERS,
    EXPANDERS,
    HEADS,
    PENALTIES,
    POSTERIORS,
    PRIORS,
    SCHEDULES,
    SLOTS,
    choices_by_setting,
    quoted_list,
)
from .token_settings import check_tokens


def check_slots(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Raise `ConfigError` for settings of model and objective that do not work together. Shapes are
    checked when the slots are built."""
    if keras.config.floatx() != "float32":
        raise ConfigError(
            f"floatx of Keras is {keras.config.floatx()!r} (keras.json, or set_floatx), but a "
            "TextVAE keeps weights and sums in float32: call keras.config.set_floatx('float32') "
            "before you build it"
        )
    policy = keras.config.dtype_policy().name
    precisions = get_args(get_type_hints(TrainingConfig)["precision"])
    if policy not in precisions:
        raise ConfigError(
            f"the dtype policy of Keras is {policy!r}: weights must be float32, or small updates "
            f"are lost; use one of {', '.join(precisions)}"
        )
    if policy == "mixed_float16" and objective.encoder_updates:
        raise ConfigError(
            "objective.encoder_updates with precision 'mixed_float16': the loss scale of Keras "
            "belongs to updates of all weights; use 'mixed_bfloat16'"
        )
    for name in ("length", "vocabulary_size"):
        if not getattr(model, name):
            raise ConfigError(
                f"model.{name} is not set; give a number, or let `kvae train` choose it from the "
                "corpus"
            )
    for violated, reason in misfits(model, objective):
        if violated:
            raise ConfigError(reason)
    for part, name, readers, is_read in dependent_settings(model, objective):
        default = next(item.default for item in fields(type(part)) if item.name == name)
        if not is_read and getattr(part, name) != default:
            section = "model" if part is model else "objective"
            raise ConfigError(
                f"{section}.{name} is {getattr(part, name)!r}, but nothing reads it: it belongs "
                f"to {readers}; leave it out"
            )


def check_training(config: Config) -> None:
    """Raise `ConfigError` for training settings that do not work with the model, the loss or the
    texts, and for settings of the tokens that do not work together."""
    check_tokens(config)
    objective, training = config.objective, config.training
    rules = [
        (
            training.learning_rate_warmup > 0 and training.learning_rate_schedule != "cosine",
            f"training.learning_rate_warmup is {training.learning_rate_warmup}, but nothing reads "
            "it: it belongs to learning_rate_schedule 'cosine'; leave it out",
        ),
        (
            bool(keras.config.max_epochs() or keras.config.max_steps_per_epoch()),
            "KERAS_MAX_EPOCHS or KERAS_MAX_STEPS_PER_EPOCH is set: Keras would stop early and "
            "the run would be stored as finished; unset it, and shorten the run with --epochs or "
            "--steps",
        ),
        (
            training.length_buckets and objective.count_padding,
            "training.length_buckets trims the padding that objective.count_padding trains on; "
            "set one of them to false",
        ),
        (
            training.length_buckets and not config.data.reading.has_end,
            f"training.length_buckets: the texts of data.mode {config.data.mode!r} all have T "
            "positions; set it to false",
        ),
        (
            training.start_from is not None and objective.warm_start_steps > 0,
            "training.start_from loads weights into a decoder that objective.warm_start_steps "
            "reinitialises; set only one of them",
        ),
    ]
    for violated, reason in rules:
        if violated:
            raise ConfigError(reason)


def dependent_settings(
    model: ModelConfig, objective: ObjectiveConfig
) -> list[tuple[ModelConfig | ObjectiveConfig, str, str, bool]]:
    """Settings that only some choices read: (section, name, what reads it, whether the
    configuration reads it)."""
    by_penalty, by_schedule = (
        PENALTIES[objective.penalty].reads,
        SCHEDULES[objective.schedule].reads,
    )
    return [
        *slot_settings(model),
        (
            objective,
            "alpha_decay_steps",
            "an auxiliary loss, objective.alpha or objective.bag_of_words",
            objective.alpha > 0 or objective.bag_of_words > 0,
        ),
        (objective, "alpha_hold", "objective.alpha_decay_steps", objective.alpha_decay_steps > 0),
        (objective, "kl_target", "the constrained penalties", "kl_target" in by_penalty),
        (objective, "free_bits", "the free-bits penalties", "free_bits" in by_penalty),
        (objective, "free_bits_over", "the free-bits penalties", "free_bits_over" in by_penalty),
        (objective, "cycles", "schedule 'cyclical'", "cycles" in by_schedule),
        (
            objective,
            "importance_gradient",
            "objective.importance_samples above 1",
            objective.importance_samples > 1,
        ),
        (objective, "classifier_weight", "a model with attributes", bool(model.attributes)),
    ]


def slot_settings(model: ModelConfig) -> Iterator[tuple[ModelConfig, str, str, bool]]:
    """The same for the settings that the rows of `kvae.slots` name."""
    for slot, table in SLOTS.items():
        row = table[getattr(model, slot)]
        for setting, names in choices_by_setting(slot).items():
            readers = f"the {slot}{'s' if len(names) > 1 else ''} {quoted_list(names)}"
            yield model, setting, readers, setting in (*row.reads, *row.ignores)


def misfits(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[bool, str]]:
    """All rules on model and objective: (whether it is violated, error message)."""
    without_code = [] if model.has_code else misfits_without_code(model, objective)
    return [
        *without_code,
        *misfits_of_slots(model),
        *misfits_of_head(model),
        *misfits_of_attention(model),
        *misfits_of_flow(model, objective),
        *misfits_of_objective(model, objective),
        *misfits_of_importance_weights(model, objective),
    ]


def misfits_without_code(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[bool, str]]:
    """Rules on a language model, which has no latent code."""
    return [
        (
            len(model.latent_size) > 1,
            "model.latent_size has several levels but model.latent is 'none'; give one size",
        ),
        (
            not EXPANDERS[model.expander].repeats,
            "model.latent is 'none': without a code there is nothing to expand; set "
            "model.expander to 'repeat'",
        ),
        (
            model.expander_base > 0,
            "model.latent is 'none': without a code there is nothing to expand; set "
            "model.expander_base to 0",
        ),
        (
            not HEADS[model.head].history or model.auxiliary,
            "model.latent is 'none': without history there is nothing to predict from; use "
            "another head, and set model.auxiliary to false",
        ),
        (
            objective.input_dropout >= 1.0,
            "objective.input_dropout is 1: a language model without history has nothing to "
            "predict from; lower it",
        ),
        (
            not PRIORS[model.prior].standard_normal
            or POSTERIORS[model.posterior].normalized
            or POSTERIORS[model.posterior].flow,
            "model.latent is 'none': without a code there is no prior or posterior; set them to "
            "'standard' and 'free'",
        ),
        (
            not PENALTIES[objective.penalty].is_weighted_kl,
            f"objective.penalty {objective.penalty!r}: with model.latent 'none' there is no KL; "
            "use 'annealed'",
        ),
        (
            objective.warm_start_steps > 0,
            "objective.warm_start_steps: a language model has no encoder to keep; set it to 0",
        ),
        (
            objective.encoder_updates > 0,
            "objective.encoder_updates: a language model has no encoder to update; set it to 0",
        ),
        (
            objective.bag_of_words > 0,
            "objective.bag_of_words: a language model has no code that predicts tokens; set it to "
            "0",
        ),
        (
            model.head_reads != "steps",
            "model.head_reads: a language model has no features to start from; use 'steps'",
        ),
    ]


def misfits_of_slots(model: ModelConfig) -> list[tuple[bool, str]]:
    """Rules on the settings of the model."""
    levels, depth = len(model.latent_size), len(model.encoder_units)
    posterior = POSTERIORS[model.posterior]
    no_encoder = not ENCODERS[model.encoder].reads_text
    return [
        (
            no_encoder if model.has_code else not (no_encoder or model.attributes),
            f"model.encoder is {model.encoder!r} and model.latent {model.latent!r}: a language "
            "model has neither (an encoder that only classifies attributes may stay), a VAE "
            "needs both",
        ),
        (
            bool(model.attributes) and no_encoder,
            "model.attributes needs an encoder, which classifies the attribute of a text; "
            f"model.encoder is {model.encoder!r}",
        ),
        (
            len(model.attributes) == 1,
            "model.attributes has one value, so the label is constant; give at least two",
        ),
        (
            1 < levels > depth,
            f"a ladder of {levels} levels (model.latent_size) needs as many encoder layers, "
            f"model.encoder_units has {depth}",
        ),
        (
            levels > 1 and posterior.normalized,
            "model.posterior 'batch_normalized' works with one level, model.latent_size has "
            "several: use 'free'",
        ),
        (
            posterior.normalized and model.posterior_scale == 0,
            "model.posterior_scale is 0: all posterior means would be equal; give a number above 0",
        ),
        (
            len(set(model.attributes)) < len(model.attributes),
            f"model.attributes names a value twice: {list(model.attributes)}",
        ),
    ]


def misfits_of_head(model: ModelConfig) -> list[tuple[bool, str]]:
    """Rules on the settings of the head."""
    return [
        (
            not HEADS[model.head].history and model.auxiliary,
            f"model.auxiliary is true with head {model.head!r}: the head itself predicts from the "
            "features alone; set it to false",
        ),
        (
            (model.tied_embeddings or model.head_dropout > 0)
            and not (model.head_embedding or HEADS[model.head].embeds_tokens),
            "model.tied_embeddings and model.head_dropout act on the embeddings of previous "
            "tokens; set model.head_embedding above 0",
        ),
        (
            model.head_reads == "state"
            and (model.has_map or not EXPANDERS[model.expander].repeats),
            "model.head_reads 'state' reads only the features of the first position and needs a "
            "dense latent and expander 'repeat'; use 'steps' or 'both'",
        ),
        (
            model.head_skip
            and not (model.head_reads != "state" and (model.has_code or model.attributes)),
            "model.head_skip adds the features of each position to the outputs of the head, which "
            "needs a code or a label, and model.head_reads 'steps' or 'both'; set it to false",
        ),
    ]


def misfits_of_attention(model: ModelConfig) -> list[tuple[bool, str]]:
    """Rules on the numbers of attention heads."""
    return [
        (
            name in row.reads and any(size % getattr(model, name) for size in sizes),
            f"model.{name} is {getattr(model, name)} and does not divide {units} "
            f"{', '.join(map(str, sizes))}; give a divisor",
        )
        for name, row, units, sizes in (
            (
                "encoder_attention_heads",
                ENCODERS[model.encoder],
                "model.encoder_units",
                model.encoder_units,
            ),
            ("head_attention_heads", HEADS[model.head], "model.head_units", (model.head_units,)),
        )
    ]


def misfits_of_flow(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[bool, str]]:
    """Rules on a posterior with a flow, which is no Gaussian of independent dimensions."""
    if not POSTERIORS[model.posterior].flow:
        return []
    return [
        (
            PRIORS[model.prior].gaussian_posterior,
            f"model.prior {model.prior!r} needs a Gaussian posterior of independent dimensions, "
            f"which a flow does not give (model.posterior {model.posterior!r}): use posterior "
            "'free', or another prior",
        ),
        (
            has_free_bits_per_dimension(objective),
            f"objective.free_bits_over 'dimension': posterior {model.posterior!r} has no KL of "
            "each dimension; use 'total'",
        ),
        (
            objective.moments > 0,
            "objective.moments needs the mean and variance of a posterior in closed form, which "
            f"posterior {model.posterior!r} does not have; set it to 0, or use objective.mmd",
        ),
    ]


def has_free_bits_per_dimension(objective: ObjectiveConfig) -> bool:
    """Whether the objective needs the KL of each dimension."""
    has_free_bits = PENALTIES[objective.penalty].has_free_bits
    return has_free_bits and objective.free_bits_over == "dimension"


def misfits_of_objective(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[bool, str]]:
    """Rules on the settings of the objective, alone and with the model."""
    prior, no_history = PRIORS[model.prior], not HEADS[model.head].history
    several_levels = len(model.latent_size) > 1
    return [
        (
            objective.alpha > 0 and not model.auxiliary,
            f"objective.alpha is {objective.alpha} but model.auxiliary is false: set alpha to 0 "
            "or auxiliary to true",
        ),
        (
            has_free_bits_per_dimension(objective) and not prior.kl_of_dimensions,
            f"objective.free_bits_over 'dimension': prior {model.prior!r} has no KL of each "
            "dimension; use 'total'",
        ),
        *(
            (
                getattr(objective, name) > 0
                and (not prior.standard_normal or several_levels or not model.has_code),
                f"objective.{name} compares codes with N(0, I): it needs one level and the "
                "'standard' prior; set it to 0",
            )
            for name in ("mmd", "moments")
        ),
        (
            PENALTIES[objective.penalty].has_target
            and (
                objective.ramp_after_convergence
                or objective.ramp_start > 0
                or objective.warm_start_steps > 0
            ),
            f"objective.penalty {objective.penalty!r}: the ramp raises the KL target, and a "
            "target that stays at 0 collapses the code; set ramp_start and warm_start_steps to 0 "
            "and ramp_after_convergence to false",
        ),
        (
            objective.ramp_after_convergence and not SCHEDULES[objective.schedule].rises,
            f"objective.ramp_after_convergence: schedule {objective.schedule!r} has no ramp to "
            "hold back; use another",
        ),
        (
            objective.semi_supervised and PENALTIES[objective.penalty].averages,
            f"objective.semi_supervised: penalty {objective.penalty!r} averages over the batch, "
            "which includes texts with every possible label; use 'annealed', "
            "'constrained_per_example' or 'free_bits_mask'",
        ),
        (
            objective.input_dropout > 0 and no_history,
            f"objective.input_dropout hides previous tokens, which head {model.head!r} does not "
            "read; set it to 0",
        ),
        (
            objective.semi_supervised and not model.attributes,
            "objective.semi_supervised needs model.attributes; name the labels with data.labels "
            "(--labels FILE)",
        ),
    ]


def misfits_of_importance_weights(
    model: ModelConfig, objective: ObjectiveConfig
) -> list[tuple[bool, str]]:
    """Rules on an objective with several codes of a text."""
    several = objective.importance_samples > 1
    doubly = several and objective.importance_gradient == "doubly_reparameterized"
    setting = "objective.importance_gradient 'doubly_reparameterized'"
    return [
        (
            several and not model.has_code,
            "objective.importance_samples: a language model has no code to sample; set it to 1",
        ),
        (
            several and not PENALTIES[objective.penalty].is_weighted_kl,
            f"objective.importance_samples: penalty {objective.penalty!r} acts on the KL, which "
            "is no term of the importance-weighted bound; use 'annealed', or set it to 1",
        ),
        (
            several and objective.semi_supervised,
            "objective.importance_samples: objective.semi_supervised adds up bounds with one code "
            "for each possible label; set it to 1",
        ),
        (
            doubly and len(model.latent_size) > 1,
            f"{setting} is derived for a code of one level, model.latent_size has several; use "
            "'standard'",
        ),
        (
            doubly and POSTERIORS[model.posterior].flow,
            f"{setting} is derived for a Gaussian posterior, model.posterior is "
            f"{model.posterior!r}; use 'standard'",
        ),
        (
            doubly and PRIORS[model.prior].reads_encoder,
            f"{setting} has another gradient for the encoder than for the prior, and prior "
            f"{model.prior!r} is made of the encoder; use 'standard'",
        ),
        (
            doubly and EXPANDERS[model.expander].batch_normalized,
            f"{setting} needs a decoder that reads each code by itself, and expander "
            f"{model.expander!r} normalises over the batch; use expander 'repeat', or 'standard'",
        ),
    ]
