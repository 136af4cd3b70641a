"""What a model is and how it learns, as data: frozen dataclasses that read and write plain dictionaries.

The annotation of a field is its rule: `Literal` lists the choices, `tuple[int, ...]` is a list of whole numbers. The choices
of a slot are the rows of its table in `kvae.slots`. Bounds stand in the field's metadata; where they do not, those of its
type hold. Whatever breaks a rule raises `ConfigError` with the field, the rule, the value and the nearest valid name.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from kvae.serving.alphabet import LONGEST, MOST_SYMBOLS, SPECIALS
from kvae.serving.errors import ConfigError, shown

from .slots import ENCODERS, EXPANDERS, LATENTS, SLOTS

LARGEST_SIZE = 2**16
"""Units, filters, components or dimensions of one layer at most."""

LARGEST_NUMBER = {int: 2**31 - 1, float: 1e30}
"""Numbers of fields without a maximum of their own, whole ones and others: what all backends can count and compute with."""

LONGEST_TEXT = 10_000
"""Characters of a text, as a path or a label."""

MOST_LAYERS = 64
MOST_ATTRIBUTES = 2**16


def bounded(
    default: Any, minimum: float, maximum: float | None = None, max_items: int = MOST_LAYERS
) -> Any:
    """A field whose numbers lie in [minimum, maximum]; a list has at most `most` of them."""
    return field(
        default=default, metadata={"minimum": minimum, "maximum": maximum, "max_items": max_items}
    )


def sized(default: Any, minimum: int) -> Any:
    """A field with sizes of layers."""
    return bounded(default, minimum, LARGEST_SIZE)


def slot(default: str) -> Any:
    """A field whose choices are the rows of its table in `kvae.slots.SLOTS`."""
    return field(default=default, metadata={"slot": True})


class Section:
    """What all parts of a configuration can do: check themselves, and become and come from dictionaries."""

    def __post_init__(self) -> None:
        for name, rule in rules(type(self)).items():
            object.__setattr__(
                self, name, checked_value(type(self), name, rule, getattr(self, name))
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from a plain dictionary; missing keys take their defaults, unknown ones raise `ConfigError`."""
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"{section_name(cls)} must be an object of settings, got {shown(data)}"
            )
        for key in data:
            if key not in rules(cls):
                raise ConfigError(
                    f"{section_name(cls)} has no key {shown(key)}{nearest(str(key), rules(cls))}"
                )
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, ready for JSON."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]
        return data


@dataclass(frozen=True)
class ModelConfig(Section):
    """The slots and their sizes. T is `length`, V `vocabulary_size`, L the number of `latent_size`s."""

    length: int = bounded(0, 0, LONGEST)
    """T: positions a text takes, its end mark included; 0: chosen from the corpus before the model is built."""
    vocabulary_size: int = bounded(0, 0, len(SPECIALS) + MOST_SYMBOLS)
    """V, the special ids included; 0: chosen from the corpus."""
    tokenizer: Literal["char", "byte", "word", "wordpiece"] = "char"
    """What a symbol is: a character, a UTF-8 byte, a word (between white space) or a piece of a word."""
    attributes: tuple[str, ...] = field(
        default=(), metadata={"max_items": MOST_ATTRIBUTES, "distinct": True}
    )
    """The values of the label that texts are conditioned on, none without; chosen from the corpus with `data.labels`."""

    encoder: str = slot("conv")
    """One of `kvae.slots.ENCODERS`."""
    encoder_embedding: int = sized(0, 0)
    """Size of the symbol vectors that the encoder reads; 0: one-hot."""
    encoder_units: tuple[int, ...] = sized((64, 128), 1)
    """Feature maps or units of each layer, bottom first; a convolution (kernel 3, stride 2) halves the positions."""
    encoder_bidirectional: bool = False
    """Whether recurrent layers read in both directions, each with all of the units."""

    latent: str = slot("dense")
    """`dense`: a vector; `map`: a vector for each position of the encoder's feature map; `none`: a language model."""
    latent_size: tuple[int, ...] = sized((32,), 1)
    """Size of the vector, or of each position's. Several sizes, bottom first, make a ladder with as many levels."""
    posterior: Literal["free", "batch_normalized"] = "free"
    """`batch_normalized`: the means have a fixed spread, which bounds the KL from below (Zhu et al. 2020)."""
    posterior_scale: float = bounded(0.5, 0.0)
    """The spread of batch-normalised means: gamma of Zhu et al. 2020."""

    prior: str = slot("standard")
    """Of the top level; the levels below have learned Gaussian priors given the level above."""
    prior_components: int = sized(10, 1)
    """K of `mixture` and `vamp`."""
    prior_rate: float = bounded(2.0, 0.0)
    """Nats of KL that the `autoregressive` prior makes unavoidable (delta of Razavi et al. 2019)."""

    expander: str = slot("deconv")
    """One of `kvae.slots.EXPANDERS`."""
    expander_filters: tuple[int, ...] = sized((128, 64), 1)
    """Feature maps of each deconvolution; each doubles the positions. The last number is C, what the head reads."""
    expander_base: int = sized(128, 0)
    """Feature maps of the coarse grid before the deconvolutions, or size of a ReLU layer before `repeat` (0: none)."""

    head: str = slot("lstm")
    """One of `kvae.slots.HEADS`."""
    head_units: int = sized(192, 1)
    head_layers: int = bounded(1, 1, MOST_LAYERS)
    """Causal convolutions of `bytenet` and `gated_conv`."""
    head_kernel: int = bounded(2, 2, LONGEST)
    """Positions a causal convolution reads."""
    head_dilation: int = bounded(1, 1, LONGEST)
    """Factor by which each causal convolution's dilation exceeds the one before."""
    head_embedding: int = sized(0, 0)
    """Size of the vectors of previous symbols; 0: as wide as the head needs."""
    head_reads: Literal["steps", "state", "both"] = "steps"
    """Where a recurrent head reads the features: at every step, in its initial state (Bowman et al. 2016), or in both."""
    head_layer_normalization: bool = True
    head_dropout: float = bounded(0.0, 0.0, 0.95)
    """Share of what a recurrent head reads of previous symbols and of what it shows the classifier that is zeroed while
    training, the rest scaled up (Zaremba et al. 2014)."""
    tied_embeddings: bool = False
    """Whether a recurrent head's classifier compares with the vectors of previous symbols (Press and Wolf 2017)."""
    auxiliary: bool = True
    """Whether the expander's features also predict the text by themselves (the auxiliary loss needs it)."""

    batch_normalization_momentum: float = bounded(0.9, 0.0, 0.999)
    """Above 0.9 the moving statistics lag in short runs, and validation KL reads near zero."""

    @property
    def any_length(self) -> bool:
        """True if trimming trailing padding changes no output of the model."""
        encoder, expander = ENCODERS[self.encoder].any_length, EXPANDERS[self.expander].any_length
        return encoder and not self.encoder_bidirectional and not self.has_map and expander

    @property
    def has_code(self) -> bool:
        """False for a language model."""
        return LATENTS[self.latent].has_code

    @property
    def has_map(self) -> bool:
        """Whether each level of the code is a map (T', c), a vector for each position of the encoder's features."""
        return LATENTS[self.latent].positions

    @property
    def encoder_stride(self) -> int:
        """How many positions of the text become one in the encoder's top layer."""
        stride: int = ENCODERS[self.encoder].stride ** len(self.encoder_units)
        return stride

    @property
    def expander_stride(self) -> int:
        """By how much the expander multiplies the positions that it starts from."""
        stride: int = EXPANDERS[self.expander].stride ** len(self.expander_filters)
        return stride


@dataclass(frozen=True)
class ObjectiveConfig(Section):
    """loss = reconstruction + penalty(KL) + alpha * auxiliary, nats per sequence (Semeniuta et al. 2017, eq. 3-4)."""

    penalty: Literal[
        "annealed", "constrained", "constrained_per_example", "free_bits", "free_bits_mask"
    ] = "annealed"
    schedule: Literal["linear", "sigmoid", "cosine", "cyclical", "constant"] = "linear"
    """How the ramp rises from 0 to 1; it scales beta, or the target C of the constrained penalties."""
    cycles: int = bounded(4, 1)
    """Times that `cyclical` starts again within the ramp (Fu et al. 2019)."""
    beta_max: float = bounded(1.0, 0.0)
    ramp_start: int = bounded(0, 0)
    """Training step at which the ramp leaves 0."""
    ramp_steps: int = bounded(1000, 0)
    """Steps from 0 to 1; 0 switches it on at once."""
    ramp_after_convergence: bool = False
    """Hold the ramp at 0 until the loss has stopped falling, and let it last at least 20 % of the steps that took."""
    kl_target: float = bounded(15.0, 0.0)
    """C of the constrained penalties: nats per sequence."""
    free_bits: float = bounded(0.5, 0.0)
    """Nats of KL that cost nothing, per dimension or in total."""
    free_bits_over: Literal["dimension", "total"] = "dimension"
    alpha: float = bounded(0.2, 0.0)
    alpha_hold: int = bounded(0, 0)
    """Training step at which alpha begins to fall to 0, where `alpha_decay_steps` says so."""
    alpha_decay_steps: int = bounded(0, 0)
    """Steps that alpha takes to fall to 0, along a straight line; 0: it stays."""
    mmd: float = bounded(0.0, 0.0)
    """Weight of the squared maximum mean discrepancy between codes and prior (InfoVAE, Zhao et al. 2019)."""
    input_dropout: float = bounded(0.0, 0.0, 1.0)
    """Share of previous symbols hidden from the head (Bowman et al. 2016); 1 is the historyless decoder."""
    warm_start_steps: int = bounded(0, 0)
    """Train that many steps without any penalty, then draw the decoder anew and begin (Li et al. 2019)."""
    encoder_updates: int = bounded(0, 0)
    """Encoder updates for every decoder update while the encoder lags behind (He et al. 2019); 0: one update of both."""
    semi_supervised: bool = False
    """Sum over the attribute's values where a text has no label (M2, Kingma et al. 2014)."""
    classifier_weight: float = bounded(1.0, 0.0)
    """Weight of -log q(attribute | text) where the label is known."""
    count_padding: bool = True
    """Whether the positions behind the end mark are learned too, as in Semeniuta et al. 2017; reports leave them out."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """How long and how fast."""

    epochs: int = bounded(10, 1)
    steps: int | None = bounded(None, 1)
    """Total training steps; when given it replaces `epochs`."""
    steps_per_epoch: int | None = bounded(None, 1)
    """Steps between two validations; None: once through the corpus."""
    batch_size: int = bounded(64, 1)
    length_buckets: bool = False
    """Batches of texts of similar length, cut to the longest, where neither model nor loss asks for the padding."""
    start_from: str | None = None
    """A run, or a `.keras` file, with whose weights a model begins wherever their names and shapes are its own."""
    learning_rate: float = bounded(1e-3, 0.0)
    learning_rate_schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    """`cosine` falls to zero at the last step; `exponential` multiplies by `learning_rate_decay` every 1,000 steps
    after `learning_rate_hold` thousand (Semeniuta et al. 2017: 0.95 after 20)."""
    learning_rate_decay: float = bounded(0.95, 0.0, 1.0)
    learning_rate_hold: int = bounded(20, 0)
    weight_decay: float = bounded(0.0, 0.0)
    """Decoupled from the gradient (Loshchilov and Hutter 2019)."""
    clip_norm: float = bounded(5.0, 0.0)
    """Gradients are scaled down to this global norm."""
    jit_compile: bool = True
    """Compile the steps with XLA: on two cores 1.4 times as fast for the LSTM head, after some seconds of compiling. On JAX
    false takes every operation alone, which is for debugging."""
    steps_per_execution: int = bounded(1, 1)
    """Steps that run between two looks at them by progress bar and callbacks. The steps of an epoch and of the run should be a
    multiple of it: the last execution runs in full."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """What layers compute in; weights, probabilities and losses are float32 in any case. Export always is."""
    early_stopping: int = bounded(0, 0)
    """Stop when that many epochs after the ramp have not improved the held-out bound, and keep the best weights; 0: never."""
    checkpoint_steps: int | None = bounded(None, 1)
    """Steps between two checkpoints within an epoch; None: ten minutes. One is written at the end of each epoch anyway."""
    devices: int = bounded(1, 1)
    """Devices of this machine that share each batch; with TF_CONFIG, those of each worker."""
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"
    """What happens when the code is unused after the ramp: a warning with remedies, the same and the end of the run, or
    nothing."""
    seed: int = bounded(0, 0, 2**32 - 1)


@dataclass(frozen=True)
class DataConfig(Section):
    """Which text, and how it becomes rows of tokens."""

    source: str = "unicode-names"
    """A named corpus (`kvae data list`), or a file (UTF-8, plain, .gz, .bz2 or .xz), a folder or a pattern of such files."""
    mode: Literal["lines", "windows", "fixed"] = "lines"
    """`lines`: one text a line. `fixed`: lines of exactly T characters, without end mark. `windows`: the file is one
    stream, cut into windows of T characters."""
    storage: Literal["auto", "memory", "disk"] = "auto"
    """Where the tokens to learn from are kept: `auto` puts what has more than 256 MB, or more than
    8,388,608 lines, on disk, in the folder KVAE_DATA."""
    validation: str | None = None
    """A file held out by the user; None: `validation_fraction` of the lines is held out, chosen by `split_seed`."""
    labels: str | None = None
    """A file with the label of each line of `source`, empty where unknown; `corpus`: the labels of a named corpus."""
    validation_labels: str | None = None
    """The same for `validation`."""
    labelled_fraction: float = bounded(1.0, 0.0, 1.0)
    """Share of the labels that training may see."""
    validation_fraction: float = bounded(0.05, 0.0001, 0.9)
    split_seed: int = bounded(0, 0, 2**32 - 1)
    split: Literal["lines", "texts"] = "lines"
    """What both fractions are shares of, equal lines on one side: the lines, or the different texts, as in runs of before."""
    too_long: Literal["refuse", "cut", "drop"] = "refuse"
    """What happens to lines longer than the model's length."""
    max_symbols: int = bounded(0, 0)
    """The alphabet keeps this many of the commonest symbols, the rest become the unknown symbol; 0: 256 characters, 10,000
    words or wordpieces."""
    min_count: int = bounded(1, 1)
    """The alphabet keeps characters or words that occur at least this often."""


@dataclass(frozen=True)
class Config(Section):
    """Everything a run is made from; `config.json` of a run folder is this."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)

    @classmethod
    def from_stored(cls, data: Mapping[str, Any]) -> Config:
        """Build from what a run keeps: what it does not name yet has the value that was the only one when it was written."""
        section = data.get("data") if isinstance(data, Mapping) else None
        return cls.from_dict(
            {**data, "data": {**OLD_RUN_DEFAULTS, **section}}
            if isinstance(section, Mapping)
            else data
        )

    def with_split_of(self, stored: Config) -> Config:
        """A copy that holds out what a run of `stored` does where all else is the same."""
        return self.with_settings({"data.split": stored.data.split})

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        """A copy with dotted keys replaced: `config.with_settings({"model.latent_size": 64})`."""
        changed = self
        for key, value in settings.items():
            section, _, name = key.partition(".")
            if section not in rules(Config) or not name:
                raise ConfigError(
                    f"setting {shown(key)}: a key is SECTION.NAME{nearest(key, dotted_keys())}"
                )
            part = getattr(changed, section)
            if name not in rules(type(part)):
                raise ConfigError(
                    f"setting {shown(key)}: {section} has no key {shown(name)}{nearest(key, dotted_keys())}"
                )
            changed = replace(changed, **{section: replace(part, **{name: value})})
        return changed


OLD_RUN_DEFAULTS = {"split": "texts"}
"""Fields of `DataConfig` whose default is not what runs did before the field was there."""


def parse_setting(text: str) -> tuple[str, Any]:
    """`"model.latent_size=64"` as a key and a value; the value is JSON where it parses and a string where not."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r}: write KEY=VALUE, as in model.latent_size=64")
    try:
        return key.strip(), json.loads(value)
    except (ValueError, RecursionError):
        return key.strip(), value


def dotted_keys() -> list[str]:
    """Every key that `--set` takes."""
    return [f"{section}.{name}" for section, rule in rules(Config).items() for name in rules(rule)]


def dotted_value(config: Config, key: str) -> Any:
    """What a dotted key stands for."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


LONGEST_NAME = 100
"""Characters of a name that are compared with the known ones."""


def nearest(word: str, names: Iterable[str]) -> str:
    """How an error ends when a name is not known: the closest one, or all of them."""
    names = list(names)
    close = difflib.get_close_matches(word[:LONGEST_NAME], names, n=1, cutoff=0.6)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; choose one of {', '.join(map(repr, names))}"
    )


annotations_of = functools.cache(get_type_hints)


def rules(section: Any) -> dict[str, Any]:
    """Field names of a section with their annotations."""
    hints = annotations_of(section)
    return {item.name: hints[item.name] for item in fields(section)}


def section_name(section: type) -> str:
    """`ModelConfig` -> `model`, as it is called in dotted keys."""
    return section.__name__.removesuffix("Config").lower() or "config"


def checked_value(section: Any, name: str, rule: Any, value: Any) -> Any:
    """`value` in the field's own type, or `ConfigError`."""
    label = f"{section_name(section)}.{name}"
    if isinstance(rule, type) and issubclass(rule, Section):
        return value if isinstance(value, Section) else rule.from_dict(value)
    bounds = next(item.metadata for item in fields(section) if item.name == name)
    if "slot" in bounds:
        return checked_choice(label, tuple(SLOTS[name]), value)
    value = converted_value(label, rule, value)
    low, high = bounds.get("minimum"), bounds.get("maximum")
    for number in value if isinstance(value, tuple) else (value,):
        maximum = LARGEST_NUMBER.get(type(number)) if high is None else high
        too_small = low is not None and number is not None and number < low
        if too_small or (maximum is not None and number > maximum):
            limits = (
                f"at least {low}" if high is None and too_small else f"between {low} and {maximum}"
            )
            raise ConfigError(f"{label} must be {limits}, got {shown(number)}")
        if isinstance(number, str) and len(number) > LONGEST_TEXT:
            raise ConfigError(
                f"{label} must be a text of at most {LONGEST_TEXT:,} characters, got {len(number):,}"
            )
    if isinstance(value, tuple) and len(value) > bounds.get("max_items", MOST_LAYERS):
        raise ConfigError(
            f"{label} must be a list of at most {bounds.get('max_items', MOST_LAYERS)}, got {len(value):,}"
        )
    if "distinct" in bounds and not (all(value) and len(set(value)) == len(value)):
        raise ConfigError(
            f"{label} must differ from each other and be no empty texts, got {shown(list(value))}"
        )
    return value


def checked_choice(label: str, choices: tuple[Any, ...], value: Any) -> Any:
    """`value`, if it is one of the choices."""
    if value not in choices:
        raise ConfigError(
            f"{label} is {shown(value)}{nearest(value if isinstance(value, str) else shown(value), choices)}"
        )
    return value


def converted_value(label: str, rule: Any, value: Any) -> Any:
    """`value` as the annotation `rule` wants it."""
    if get_origin(rule) is Literal:
        return checked_choice(label, get_args(rule), value)
    if get_origin(rule) in (Union, types.UnionType):
        return None if value is None else converted_value(label, get_args(rule)[0], value)
    if get_origin(rule) is tuple:
        value = (
            [value]
            if isinstance(value, get_args(rule)[0]) and not isinstance(value, bool)
            else value
        )
        if not isinstance(value, list | tuple) or not (value or rule == tuple[str, ...]):
            raise ConfigError(f"{label} must be a list such as [64, 128], got {shown(value)}")
        return tuple(converted_value(label, get_args(rule)[0], item) for item in value)
    if rule is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= LARGEST_NUMBER[float] else value
    if (
        not isinstance(value, rule)
        or (rule is int and isinstance(value, bool))
        or value in (math.inf, -math.inf)
        or value != value
    ):
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[
            rule
        ]
        raise ConfigError(f"{label} must be {kind}, got {shown(value)}")
    return value
