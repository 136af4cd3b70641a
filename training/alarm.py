"""The collapse alarm: warns if the latent code is unused, suggests remedies, and can stop the
run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras

from kvae.configuration import ModelConfig, ObjectiveConfig
from kvae.model import TextVAE, as_int
from kvae.objectives import TARGETED
from kvae.serving.errors import ConfigError
from kvae.slots import EXPANDERS, HEADS

NEAR_ZERO = 0.1
"""KL and mutual information below this, in nats, count as zero."""

LATENT_METRICS = ("val_kl", "val_active_units", "val_mutual_information")
"""The metrics that the alarm reads from the logs of an epoch."""


class CollapseAlarm(keras.callbacks.Callback):
    """Warn if the latent code is unused in `patience` successive evaluations after the end of the
    ramp: KL and mutual information near 0 and no active unit. Report recovery after as many
    evaluations with a code in use.

    `say` and `note` receive the message, for the terminal and for TensorBoard. With `stop` the
    warning also ends the run. The logs of each epoch get `val_collapsed`, 0 or 1. Put the callback
    after `LatentReport`, otherwise it raises `ConfigError`. It does nothing for a model without a
    code or with `beta_max` 0.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        note: Callable[[str], None] = lambda sentence: None,
        stop: bool = False,
        patience: int = 3,
    ) -> None:
        super().__init__()
        self.say, self.note, self.stop, self.patience = say, note, stop, patience
        self.collapsed, self.evaluations = False, 0

    def state(self) -> dict[str, int]:
        """The state for a resumed run: whether the alarm is on, and the number of successive
        evaluations that contradict it."""
        return {"collapsed": int(self.collapsed), "evaluations": self.evaluations}

    def restore(self, state: Mapping[str, int]) -> None:
        """Restore a state that `state` returned."""
        self.collapsed, self.evaluations = bool(state["collapsed"]), int(state["evaluations"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        if not is_monitored(model):
            return
        logs = {} if logs is None else logs
        if any(name not in logs for name in LATENT_METRICS):
            raise ConfigError(
                "CollapseAlarm needs a LatentReport before it in the list of callbacks, on texts "
                "that are not all the same"
            )
        contradicts = ramp_is_over(model) and code_is_unused(logs) != self.collapsed
        self.evaluations = self.evaluations + 1 if contradicts else 0
        if self.evaluations == self.patience:
            self.collapsed, self.evaluations = not self.collapsed, 0
            self.report(self.sentences(model, logs))
            if self.stop and self.collapsed:
                model.stop_training = True
        logs["val_collapsed"] = int(self.collapsed)

    def report(self, text: str) -> None:
        self.say(text)
        self.note(text)

    def sentences(self, model: TextVAE, logs: Mapping[str, Any]) -> str:
        """The message of the alarm, with the metrics of the last evaluation."""
        kl, active, information = (logs[name] for name in LATENT_METRICS)
        numbers = (
            f"KL {kl:.4f} nats, {int(active)} active units, "
            f"mutual information {max(information, 0.0):.4f} nats"
        )
        when = f"step {as_int(model.training_steps):,}, {self.patience} evaluations in a row"
        if not self.collapsed:
            return f"the code is in use again ({when}): {numbers}"
        ending = (
            "training stops, as training.on_collapse=stop asks" if self.stop else "training goes on"
        )
        helps = [
            f"  {flags(settings)}\n      {why}"
            for settings, why in remedies(model.model_config, model.objective_config)
        ]
        return "\n".join(
            [
                f"the code is unused ({when}, the ramp at its height): {numbers}",
                f"the decoder has become a language model that ignores z; {ending}; what usually "
                "helps, one at a time:",
                *helps,
            ]
        )


def is_monitored(model: TextVAE) -> bool:
    """Whether collapse is possible and unwanted: the model has a code, beta_max > 0, and the KL
    target is not near 0."""
    objective = model.objective_config
    targets_zero_kl = objective.penalty in TARGETED and objective.kl_target < NEAR_ZERO
    return bool(model.hierarchy.shapes) and objective.beta_max > 0 and not targets_zero_kl


def ramp_is_over(model: TextVAE) -> bool:
    """Whether the ramp has ended: a cyclical ramp with its last cycle, a constant one at its
    start."""
    objective = model.objective_config
    rise = 0 if objective.schedule == "constant" else as_int(model.ramp_steps)
    return (
        as_int(model.training_steps) >= objective.warm_start_steps + as_int(model.ramp_start) + rise
    )


def code_is_unused(logs: Mapping[str, Any]) -> bool:
    """Whether KL, mutual information and active units of held-out texts are all near 0; False if
    one is NaN."""
    kl, active, information = (logs[name] for name in LATENT_METRICS)
    return bool(kl < NEAR_ZERO and active == 0 and information < NEAR_ZERO)


def flags(settings: Mapping[str, Any]) -> str:
    """Settings as `--set` options of the command line."""
    values = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
    }
    return " ".join(f"--set {key}={value}" for key, value in values.items())


def remedies(model: ModelConfig, objective: ObjectiveConfig) -> list[tuple[dict[str, Any], str]]:
    """Settings that usually cure collapse and are not yet in use, each with a reason. Each is valid
    for the configuration."""
    history, annealed = HEADS[model.head].history, objective.penalty == "annealed"
    candidates: list[tuple[bool, dict[str, Any], str]] = [
        (
            history and not model.auxiliary,
            {**deconvolution_settings(model), "model.auxiliary": True, "objective.alpha": 0.2},
            "the code alone has to predict the text too",
        ),
        (
            model.auxiliary and objective.alpha < 0.5,
            {"objective.alpha": 2 * objective.alpha or 0.2},
            "what the code alone predicts weighs more",
        ),
        (
            history and objective.input_dropout == 0,
            {"objective.input_dropout": 0.3},
            "the decoder misses some of the previous symbols, and needs the code instead",
        ),
        (
            objective.beta_max > 1,
            {"objective.beta_max": 1.0},
            "the KL costs no more than the bound says",
        ),
        (
            objective.penalty not in TARGETED,
            longer_ramp_settings(objective),
            "the code has more time to become useful before it costs",
        ),
        (annealed, free_bits_settings(objective), "the first 5 nats of KL cost nothing"),
        (annealed, kl_target_settings(objective), "the KL is held at 10 nats"),
        (
            objective.penalty.startswith("free_bits"),
            {"objective.free_bits": 2 * objective.free_bits or 0.5},
            "more of the KL costs nothing",
        ),
        (
            objective.encoder_updates == 0,
            {"objective.encoder_updates": 5},
            "the encoder gets five updates for each of the decoder until it has caught up",
        ),
    ]
    return [(settings, why) for applies, settings, why in candidates if applies]


def longer_ramp_settings(objective: ObjectiveConfig) -> dict[str, Any]:
    """A ramp of twice the steps, at least 1,000. A constant schedule becomes linear."""
    ramp = {"objective.schedule": "linear"} if objective.schedule == "constant" else {}
    return {**ramp, "objective.ramp_steps": max(1000, 2 * objective.ramp_steps)}


def free_bits_settings(objective: ObjectiveConfig) -> dict[str, Any]:
    """Free bits: the first five nats of the KL cost nothing."""
    return {
        "objective.penalty": "free_bits_mask" if objective.semi_supervised else "free_bits",
        "objective.free_bits_over": "total",
        "objective.free_bits": 5.0,
    }


def kl_target_settings(objective: ObjectiveConfig) -> dict[str, Any]:
    """A KL target of ten nats, without settings that delay the ramp of the target."""
    return {
        "objective.penalty": "constrained_per_example"
        if objective.semi_supervised
        else "constrained",
        "objective.kl_target": 10.0,
        **{
            f"objective.{name}": 0
            for name in ("ramp_start", "warm_start_steps")
            if getattr(objective, name)
        },
        **({"objective.ramp_after_convergence": False} if objective.ramp_after_convergence else {}),
    }


def deconvolution_settings(model: ModelConfig) -> dict[str, Any]:
    """Deconvolutions in place of a repeated code, so that features differ between positions; empty
    if they do not fit."""
    expander = next(name for name, row in EXPANDERS.items() if not row.repeats)
    if not EXPANDERS[model.expander].repeats or model.has_map or not model.has_code:
        return {}
    if model.length % replace(model, expander=expander).expander_stride:
        return {}
    return {
        "model.expander": expander,
        **({} if model.expander_base else {"model.expander_base": 128}),
        **({"model.head_reads": "steps"} if model.head_reads == "state" else {}),
    }
