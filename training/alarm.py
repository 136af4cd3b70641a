"""The collapse alarm: warns if the latent code is unused or its KL is no information, suggests
remedies, and can stop the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kvae.model import TextVAE, as_int
from kvae.serving.errors import ConfigError
from kvae.slots import PENALTIES, SCHEDULES

from .remedies import EMPTY, UNUSED, USED, flags, remedies

NEAR_ZERO = 0.1
"""KL and mutual information below this, in nats, count as zero."""

EMPTY_KL, EMPTY_SHARE = 0.5, 0.1
"""The KL of the top level is empty if it exceeds `EMPTY_KL` nats and the mutual information is
below `EMPTY_SHARE` of what it could be. Smaller KLs are left out, because the estimate on few texts
has an error of tenths of a nat."""

LATENT_METRICS = ("val_kl", "val_active_units", "val_mutual_information")
"""The metrics that the alarm reads from the logs of an epoch. If they are there, it also reads the
KL of the top level and `val_mutual_information_ceiling`."""


class CollapseAlarm(keras.callbacks.Callback):
    """Warn of a latent code that says nothing about the text, after the end of the ramp.

    A code is unused if KL and mutual information are near 0 and no unit is active, in `patience`
    successive evaluations. Its KL is empty if the mutual information is far below the KL and below
    its ceiling: the posterior is nearly the same for every text. The first such evaluation is
    enough. Recovery is reported after `patience` evaluations with a code in use.

    `say` and `note` receive the message, for the terminal and for TensorBoard. With `stop` the run
    ends after `patience` successive evaluations with an unused code or an empty KL. The logs of
    each epoch get `val_collapsed`, 0 or 1. Put the callback after `LatentReport`, otherwise it
    raises `ConfigError`. It does nothing for a model without a code or with `beta_max` 0.
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
        self.collapsed, self.evaluations, self.useless = False, 0, 0

    def state(self) -> dict[str, int]:
        """The state for a resumed run: whether the alarm is on, the number of successive
        evaluations that contradict it, and that of evaluations with a useless code."""
        return {
            "collapsed": int(self.collapsed),
            "evaluations": self.evaluations,
            "useless": self.useless,
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Restore a state that `state` returned, also one of an earlier version."""
        self.collapsed, self.evaluations = bool(state["collapsed"]), int(state["evaluations"])
        before = self.patience if self.collapsed else self.evaluations
        self.useless = int(state.get("useless", before))

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
        over, found = ramp_is_over(model), state_of_code(logs, top_level(model))
        self.useless = self.useless + 1 if over and found != USED else 0
        contradicts = over and (found != USED) != self.collapsed
        self.evaluations = self.evaluations + 1 if contradicts else 0
        stops = self.stop and self.useless >= self.patience
        if contradicts and (found == EMPTY or self.evaluations >= self.patience):
            self.collapsed, self.evaluations = not self.collapsed, 0
            self.report(self.sentences(model, logs, found))
        elif stops:
            self.report(f"training stops: {self.useless} evaluations in a row found a useless code")
        if stops:
            model.stop_training = True
        logs["val_collapsed"] = int(self.collapsed)

    def report(self, text: str) -> None:
        self.say(text)
        self.note(text)

    def sentences(self, model: TextVAE, logs: Mapping[str, Any], found: str) -> str:
        """The message of the alarm, with the metrics of the last evaluation."""
        numbers = numbers_of(logs, top_level(model))
        step = f"step {as_int(model.training_steps):,}"
        when = f"{step}, {self.patience} evaluations in a row"
        if found == USED:
            return f"the code is in use again ({when}): {numbers}"
        headline, cause = (
            (
                f"the KL is not information ({step}, the ramp at its height): {numbers}",
                "the posterior is nearly the same for every text, so z tells the decoder nothing",
            )
            if found == EMPTY
            else (
                f"the code is unused ({when}, the ramp at its height): {numbers}",
                "the decoder has become a language model that ignores z",
            )
        )
        helps = [
            f"  {flags(remedy.settings)}\n      {remedy.why}"
            for remedy in remedies(model.model_config, model.objective_config, found)
        ]
        advice = f"{cause}; {self.ending()}; what usually helps, one at a time:"
        return "\n".join([headline, advice, *helps])

    def ending(self) -> str:
        """What happens to the training after a warning."""
        if not self.stop:
            return "training goes on"
        left = self.patience - self.useless
        return (
            f"training stops if the next {left} evaluations find the same, as "
            "training.on_collapse=stop asks"
            if left > 0
            else "training stops, as training.on_collapse=stop asks"
        )


def is_monitored(model: TextVAE) -> bool:
    """Whether collapse is possible and unwanted: the model has a code, beta_max > 0, and the KL
    target is not near 0."""
    objective = model.objective_config
    targets_zero_kl = PENALTIES[objective.penalty].has_target and objective.kl_target < NEAR_ZERO
    return bool(model.hierarchy.shapes) and objective.beta_max > 0 and not targets_zero_kl


def ramp_is_over(model: TextVAE) -> bool:
    """Whether the ramp has ended: a cyclical ramp with its last cycle, a constant one at its
    start."""
    objective = model.objective_config
    rise = as_int(model.ramp_steps) if SCHEDULES[objective.schedule].rises else 0
    return (
        as_int(model.training_steps) >= objective.warm_start_steps + as_int(model.ramp_start) + rise
    )


def top_level(model: TextVAE) -> str:
    """The name in the logs of the KL of the top level, whose information is measured."""
    return f"val_kl_level_{len(model.hierarchy.shapes) - 1}"


def state_of_code(logs: Mapping[str, Any], top: str) -> str:
    """`judged` for the metrics of held-out texts; `top` is the name of the KL of the top level.

    Without that KL or the ceiling in `logs`, the whole KL is taken and no ceiling.
    """
    kl, active, information = (logs[name] for name in LATENT_METRICS)
    ceiling = logs.get("val_mutual_information_ceiling", math.inf)
    return judged(kl, active, information, logs.get(top, kl), ceiling)


def judged(
    kl: float, active: float, information: float, kl_of_top: float, ceiling: float = math.inf
) -> str:
    """`UNUSED`, `EMPTY` or `USED`: what KL, active units and information say of a code; `USED` if
    one is NaN.

    Information about the top level cannot exceed its KL, nor the ceiling of the estimate.
    """
    if kl < NEAR_ZERO and active == 0 and information < NEAR_ZERO:
        return UNUSED
    possible = min(kl_of_top, ceiling)
    return EMPTY if kl_of_top > EMPTY_KL and information < EMPTY_SHARE * possible else USED


def numbers_of(logs: Mapping[str, Any], top: str) -> str:
    """The metrics of the code for a message. A ladder has the KL of the top level too."""
    kl, active, information = (logs[name] for name in LATENT_METRICS)
    of_top = (
        f" ({logs[top]:.4f} of the top level)" if top in logs and not top.endswith("_0") else ""
    )
    ceiling = logs.get("val_mutual_information_ceiling")
    limit = "" if ceiling is None else f" (at most {ceiling:.2f} on these texts)"
    return (
        f"KL {kl:.4f} nats{of_top}, {int(active)} active units, "
        f"mutual information {information:.4f} nats{limit}"
    )
