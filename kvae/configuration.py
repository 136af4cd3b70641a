"""What a model is and how it learns, as data: frozen dataclasses that read and write plain dictionaries.

The annotation of a field is its rule: `Literal` lists the choices, `tuple[int, ...]` is a list of whole numbers. Lower
bounds stand in the field's metadata. Whatever breaks a rule raises `ConfigError` with the field, the rule, the value and
the nearest valid name.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from kvae.serving.errors import ConfigError


def bounded(default: Any, minimum: float, maximum: float | None = None) -> Any:
    """A field whose numbers lie in [minimum, maximum]."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


class Section:
    """What all parts of a configuration can do: check themselves, and become and come from dictionaries."""

    def __post_init__(self) -> None:
        for name, rule in rules(type(self)).items():
            object.__setattr__(self, name, checked(type(self), name, rule, getattr(self, name)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from a plain dictionary; missing keys take their defaults, unknown ones raise `ConfigError`."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{section_name(cls)} must be an object of settings, got {data!r}")
        for key in data:
            if key not in rules(cls):
                raise ConfigError(f"{section_name(cls)} has no key {key!r}{nearest(key, rules(cls))}")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]


@dataclass(frozen=True)
class ModelConfig(Section):
    """The five slots and their sizes. T is `length`, V `vocabulary_size`, d `latent_size`."""

    length: int = bounded(0, 0)
    """T: positions a text takes, its end mark included; 0: chosen from the corpus before the model is built."""
    vocabulary_size: int = bounded(0, 0)
    """V, the special ids included; 0: chosen from the corpus."""

    encoder: Literal["conv"] = "conv"
    encoder_filters: tuple[int, ...] = bounded((64, 128), 1)
    """Feature maps of each convolution; each halves the positions (kernel 3, stride 2)."""

    latent: Literal["dense"] = "dense"
    latent_size: int = bounded(32, 1)

    prior: Literal["standard"] = "standard"

    expander: Literal["deconv"] = "deconv"
    expander_filters: tuple[int, ...] = bounded((128, 64), 1)
    """Feature maps of each deconvolution; each doubles the positions. The last number is C, what the head reads."""
    expander_base: int = bounded(128, 1)
    """Feature maps of the coarse grid that z is mapped to before the deconvolutions."""

    head: Literal["none", "lstm"] = "lstm"
    head_units: int = bounded(192, 1)
    head_layer_normalization: bool = True
    auxiliary: bool = True
    """Whether the expander's features also predict the text by themselves (the auxiliary loss needs it)."""

    batch_normalization_momentum: float = bounded(0.9, 0.0, 0.999)
    """Above 0.9 the moving statistics lag in short runs, and validation KL reads near zero."""


@dataclass(frozen=True)
class ObjectiveConfig(Section):
    """loss = reconstruction + penalty(KL) + alpha * auxiliary, nats per sequence (Semeniuta et al. 2017, eq. 3-4)."""

    penalty: Literal["annealed"] = "annealed"
    schedule: Literal["linear"] = "linear"
    beta_max: float = bounded(1.0, 0.0)
    ramp_start: int = bounded(0, 0)
    """Training step at which beta leaves 0."""
    ramp_steps: int = bounded(1000, 0)
    """Steps from 0 to `beta_max`; 0 switches it on at once."""
    alpha: float = bounded(0.2, 0.0)
    input_dropout: float = bounded(0.0, 0.0, 1.0)
    """Share of previous symbols hidden from the head (Bowman et al. 2016); 1 is the historyless decoder."""
    count_padding: bool = True
    """Whether the positions behind the end mark are learned too, as in Semeniuta et al. 2017; reports leave them out."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """How long and how fast."""

    epochs: int = bounded(10, 1)
    steps: int | None = bounded(None, 1)
    """Total training steps; when given it replaces `epochs`."""
    batch_size: int = bounded(64, 1)
    learning_rate: float = bounded(1e-3, 0.0)
    learning_rate_schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    """`cosine` falls to zero at the last step; `exponential` multiplies by `learning_rate_decay` every 1,000 steps
    after `learning_rate_hold` thousand (Semeniuta et al. 2017: 0.95 after 20)."""
    learning_rate_decay: float = bounded(0.95, 0.0, 1.0)
    learning_rate_hold: int = bounded(20, 0)
    clip_norm: float = bounded(5.0, 0.0)
    """Gradients are scaled down to this global norm."""
    jit_compile: bool = True
    """Compile the steps with XLA: on two cores 1.4 times as fast for the LSTM head, after some seconds of compiling."""
    seed: int = bounded(0, 0, 2**32 - 1)


@dataclass(frozen=True)
class DataConfig(Section):
    """Which text, and how it becomes rows of tokens."""

    source: str = "unicode-names"
    """A named corpus (`kvae data list`) or a file: plain, .gz or .xz, UTF-8."""
    mode: Literal["lines", "windows"] = "lines"
    """`lines`: one text a line. `windows`: the file is one stream, cut into windows of the model's length."""
    validation: str | None = None
    """A file held out by the user; None: `validation_fraction` of the texts is held out, chosen by `split_seed`."""
    validation_fraction: float = bounded(0.05, 0.0001, 0.9)
    split_seed: int = bounded(0, 0, 2**32 - 1)
    too_long: Literal["refuse", "cut", "drop"] = "refuse"
    """What happens to lines longer than the model's length."""
    max_symbols: int = bounded(256, 1)
    """The alphabet keeps this many of the commonest characters; the rest become the unknown symbol."""


@dataclass(frozen=True)
class Config(Section):
    """Everything a run is made from; `config.json` of a run folder is this."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        """A copy with dotted keys replaced: `config.with_settings({"model.latent_size": 64})`."""
        changed = self
        for key, value in settings.items():
            section, _, name = key.partition(".")
            if section not in rules(Config) or not name:
                raise ConfigError(f"setting {key!r}: a key is SECTION.NAME{nearest(key, dotted_keys())}")
            part = getattr(changed, section)
            if name not in rules(type(part)):
                raise ConfigError(f"setting {key!r}: {section} has no key {name!r}{nearest(key, dotted_keys())}")
            changed = replace(changed, **{section: replace(part, **{name: value})})
        return changed


def parse_setting(text: str) -> tuple[str, Any]:
    """`"model.latent_size=64"` as a key and a value; the value is JSON where it parses and a string where not."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r}: write KEY=VALUE, as in model.latent_size=64")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value


def dotted_keys() -> list[str]:
    """Every key that `--set` takes."""
    return [f"{section}.{name}" for section, rule in rules(Config).items() for name in rules(rule)]


def nearest(word: str, names: Iterable[str]) -> str:
    """How an error ends when a name is not known: the closest one, or all of them."""
    names = list(names)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(map(repr, names))}"


def rules(section: Any) -> dict[str, Any]:
    """Field names of a section with their annotations."""
    hints = get_type_hints(section)
    return {item.name: hints[item.name] for item in fields(section)}


def section_name(section: type) -> str:
    """`ModelConfig` -> `model`, as it is called in dotted keys."""
    return section.__name__.removesuffix("Config").lower() or "config"


def checked(section: Any, name: str, rule: Any, value: Any) -> Any:
    """`value` in the field's own type, or `ConfigError`."""
    label = f"{section_name(section)}.{name}"
    if isinstance(rule, type) and issubclass(rule, Section):
        return value if isinstance(value, Section) else rule.from_dict(value)
    value = converted(label, rule, value)
    bounds = next(item.metadata for item in fields(section) if item.name == name)
    for number in value if isinstance(value, tuple) else (value,):
        low, high = bounds.get("minimum"), bounds.get("maximum")
        if number is not None and ((low is not None and number < low) or (high is not None and number > high)):
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{label} must be {limits}, got {number}")
    return value


def converted(label: str, rule: Any, value: Any) -> Any:
    """`value` as the annotation `rule` wants it."""
    if get_origin(rule) is Literal:
        if value not in get_args(rule):
            raise ConfigError(f"{label} is {value!r}{nearest(str(value), get_args(rule))}")
        return value
    if get_origin(rule) in (Union, types.UnionType):
        return None if value is None else converted(label, get_args(rule)[0], value)
    if get_origin(rule) is tuple:
        if not isinstance(value, list | tuple) or not value:
            raise ConfigError(f"{label} must be a list such as [64, 128], got {value!r}")
        return tuple(converted(label, get_args(rule)[0], item) for item in value)
    if rule is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if (
        not isinstance(value, rule)
        or (rule is int and isinstance(value, bool))
        or value in (math.inf, -math.inf)
        or value != value
    ):
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[rule]
        raise ConfigError(f"{label} must be {kind}, got {value!r}")
    return value
