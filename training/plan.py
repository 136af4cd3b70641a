"""A plan for texts that nobody has trained on before: every open setting, made from the texts, the
goal and the clock.

A choice is some settings and the reason for them. Settings that the user gave are never replaced.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras.config import backend

from kvae.configuration import Config
from kvae.misfits import check_training
from kvae.serving.errors import ConfigError
from kvae.slots import HEADS, PRIORS
from kvae.texts.records import is_blank
from kvae.token_patterns import TOKEN_PATTERNS, notation_of

from .data.corpora import holds_lines_out, with_resolved_data
from .data.lengths import LONGEST_AUTOMATIC, multiple_of_strides
from .data.orders import batch_size_of, steps_of_a_pass
from .data.prepare import Prepared, of_given_texts, prepare, read_given
from .data.sources import Source, training_source
from .data.standard_input import with_kept_input
from .data.tokenizers import counting_alphabet
from .messages import Say
from .step_timing import step_seconds

TEXTS_LOOKED_AT, TEXTS_MEASURED = 20_000, 5000
"""Number of texts at the beginning of the corpus that the plan is made from, and of those of them
whose lengths are counted."""

RATES = {"generation": 5.0, "balanced": 15.0, "reconstruction": 60.0}
"""Nats that the code carries, by goal (the rate of Prokhorov et al. 2019)."""

MOST_SMALL_RATE = 15.0
"""Largest rate in nats that a plan treats as small: a code of 32 numbers, batches of similar
length."""

HELD_OUT_TEXTS = 4000
"""Largest number of held-out texts, which are measured several times in a run."""

EPOCHS = 6
"""Number of validations of a planned run."""

END_SECONDS = 20.0
"""Time kept for the end of a run: evaluation, texts and pictures."""

SAFETY = 0.92
"""Fraction of the time for steps that is planned, since later steps may be slower than measured."""

RAMP = 0.4
"""Fraction of a run in which the weight of the KL rises."""

MOST_PASSES, MOST_PASSES_OF_SIMILAR_LENGTH = 10, 6
"""Largest numbers of passes over the texts in a plan, in batches of mixed and of similar lengths.
On the 30,328 names of Unicode characters, held-out texts cost 25.6 nats after 6 passes in batches
of similar length, and training texts 20.4; after 10 passes in mixed batches 21.6 and 19.5.
"""

ALPHA_HOLD, ALPHA_DECAY = 0.5, 0.4
"""Fractions of a run before and in which the weight of the auxiliary loss falls to 0."""

WARM_UP_STEPS = 100
"""Steps in which the learning rate rises: a tenth of a run at most."""

OF_TOKENS = frozenset(
    {"model.tokenizer", "model.token_pattern", "data.vocabulary", "data.max_symbols"}
)
"""Settings of the tokens: if the user gives one, the plan chooses none of them."""

OF_THE_RATE = frozenset(
    {"model.posterior", "model.posterior_scale", "objective.penalty", "objective.kl_target"}
    | {"objective.free_bits", "objective.free_bits_over", "objective.beta_max", "objective.mmd"}
)
"""The same for the settings that decide how much the code carries."""

STEP_SETTINGS = frozenset(
    {
        "training.steps",
        "training.steps_per_epoch",
        "training.minutes",
        "objective.ramp_start",
        "objective.ramp_steps",
        "objective.alpha_hold",
        "objective.alpha_decay_steps",
        "training.learning_rate_warmup",
    }
)
"""The settings that follow from the number of steps."""


@dataclass(frozen=True)
class Clock:
    """The time of a run: `minutes` in all, `started` as `time.monotonic` told it."""

    minutes: float
    started: float

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise ConfigError(f"minutes must be a number above 0, got {self.minutes!r}")

    @property
    def seconds_left(self) -> float:
        return self.started + 60 * self.minutes - time.monotonic()


@dataclass(frozen=True)
class Wishes:
    """What a plan is made for: a goal, or the rate in nats if it is given."""

    goal: str = "balanced"
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.goal not in RATES:
            raise ConfigError(f"goal must be {' or '.join(RATES)}, got {self.goal!r}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ConfigError(f"rate must be a number of nats above 0, got {self.rate!r}")

    @property
    def nats(self) -> float:
        """Nats that the code carries."""
        return RATES[self.goal] if self.rate is None else self.rate

    @property
    def is_small(self) -> bool:
        """Whether the rate is small."""
        return self.nats <= MOST_SMALL_RATE


@dataclass(frozen=True)
class Choice:
    """Settings by dotted name, and the reason for them."""

    settings: dict[str, Any]
    reason: str


def planned(
    config: Config,
    given: Collection[str],
    clock: Clock | int,
    wishes: Wishes,
    say: Say,
    texts: Any = None,
    labels: Any = None,
) -> Prepared:
    """The data of a configuration whose open settings a plan has chosen; `say` gets each choice.

    `texts` and `labels` are what `prepare` takes; without them `data.source` is read. `given` are
    the dotted names of the settings that the user chose. The number of steps is `clock`, or follows
    from its time and the time that a few of them take. Raises `ConfigError` or `DataError`.
    """
    if texts is not None:
        texts, labels = read_once(texts), read_once(labels)
        config = of_given_texts(config, labels)
    say(f"reading {config.data.source}")
    config = with_resolved_data(with_kept_input(config, say))
    source = training_source(config) if texts is None else read_given(config, texts, labels)
    config = chosen(config, given, wishes, source, say)
    check_training(config)
    prepared = prepare(config, say, texts, labels)
    for note in prepared.notes:
        say(note)
    if isinstance(clock, int):
        steps = Choice(schedule(prepared.config, clock), f"{clock:,} steps")
        return replace(prepared, config=with_choice(prepared.config, steps, given, say))
    timing = timed(prepared, clock)
    if timing.steps < MOST_PASSES_OF_SIMILAR_LENGTH * steps_of_a_pass(prepared):
        similar = batches_of_similar_length(prepared.config, wishes)
        config = with_choice(prepared.config, similar, given, say)
        if config != prepared.config:
            prepared = replace(prepared, config=config)
            timing = timed(prepared, clock)
    steps = steps_choice(prepared, clock, timing)
    return replace(prepared, config=with_choice(prepared.config, steps, given, say))


def read_once(values: Any) -> Any:
    """What can be read several times, as a plan does: an iterator becomes a list."""
    return list(values) if isinstance(values, Iterator) else values


def chosen(
    config: Config, given: Collection[str], wishes: Wishes, source: Source, say: Say
) -> Config:
    """The configuration with all choices but the number of steps.

    A choice is left to the user as a whole where one setting would contradict the others.
    """
    texts, is_whole = first_texts(source)
    if not texts:
        return config  # `prepare` says what is wrong
    may_choose_tokens = config.model.tokenizer == "char" and not config.data.reading.is_fixed
    if may_choose_tokens and not OF_TOKENS & set(given):
        config = with_choice(config, tokens(config, texts, wishes), given, say)
    config = with_choice(config, sizes(config, texts, wishes), given, say)
    if not OF_THE_RATE & set(given) and has_one_vector(config):
        config = with_choice(config, rate(config, texts, wishes), given, say)
    if config.data.reading.has_end and "model.length" not in given:
        config = with_choice(config, lengths(config, texts), given, say)
    if is_whole or config.data.validation is not None or not holds_lines_out(config):
        return config
    return with_choice(config, held_out_share(config, source), given, say)


def has_one_vector(config: Config) -> bool:
    """Whether the code is one vector with a standard normal prior, whose rate a plan can set."""
    model = config.model
    return (
        model.has_code
        and not model.has_map
        and len(model.latent_size) == 1
        and PRIORS[model.prior].standard_normal
    )


def with_choice(config: Config, choice: Choice, given: Collection[str], say: Say) -> Config:
    """The configuration with the settings of a choice that the user did not give."""
    settings = {name: value for name, value in choice.settings.items() if name not in given}
    if settings:
        shown = ", ".join(f"{name}={short(value)}" for name, value in settings.items())
        say(f"plan: {choice.reason} (--set {shown})")
    return config.with_settings(settings)


def short(value: Any) -> str:
    """A setting as `--set` takes it."""
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(short, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def first_texts(source: Source) -> tuple[list[str], bool]:
    """The first texts of the corpus that are not blank, and whether these are all."""
    every = (text for records in source.blocks([]) for text in records.texts if not is_blank(text))
    texts = list(itertools.islice(every, TEXTS_LOOKED_AT))
    return texts, next(every, None) is None


def tokens(config: Config, texts: Sequence[str], wishes: Wishes) -> Choice:
    """The tokens of SMILES or SELFIES strings for molecules, byte pairs for texts in which words
    repeat, else characters."""
    if name := notation_of(texts):
        return Choice(
            {"model.tokenizer": "pattern", "model.token_pattern": TOKEN_PATTERNS[name]},
            f"tokens are those of {name.upper()} strings, because the texts are molecules "
            f"(--tokenizer {name})",
        )
    words = Counter(word for text in texts for word in text.split())
    characters = sum(map(len, texts))
    if words.total() >= 3 * len(texts) and len(words) <= 0.5 * words.total():
        size = int(np.clip(characters // 400, 320, 2048))
        return Choice(
            {"model.tokenizer": "bpe", "data.max_symbols": size},
            f"tokens are byte pairs, because words repeat in the texts ({len(words):,} different "
            f"words among {words.total():,}); no text has an unknown token",
        )
    counts = sorted(Counter("".join(texts)).values(), reverse=True)
    known = int(np.searchsorted(np.cumsum(counts), 0.995 * characters)) + 1
    return Choice(
        {"model.tokenizer": "char", "data.max_symbols": max(known, min(len(counts), 256))},
        f"tokens are characters; the alphabet has {known:,} of the {len(counts):,} kinds, which "
        "leaves less than 1 % unknown",
    )


def lengths(config: Config, texts: Sequence[str]) -> Choice:
    """T from the 99th percentile of the lengths in tokens."""
    alphabet = counting_alphabet(config, lambda: iter(texts))
    measured = texts[:: -(-len(texts) // TEXTS_MEASURED)]
    counts = np.sort([alphabet.count(text) for text in measured])
    wanted = int(counts[min(len(counts) - 1, int(0.99 * len(counts)))]) + 1
    length = min(multiple_of_strides(config, wanted), LONGEST_AUTOMATIC)
    return Choice(
        {"model.length": length, "data.too_long": "cut", "objective.count_padding": False},
        f"{length} positions hold 99 % of the texts, longer ones are cut",
    )


def batches_of_similar_length(config: Config, wishes: Wishes) -> Choice:
    """Batches of similar length, for a run whose time is short.

    They save work and cost quality, because the statistics of batch normalisation are then those of
    one length. 2,838 steps on the names of Unicode characters gave 1.388 bits a character with them
    and 1.211 without; at a rate of 60 nats a reconstruction of 9.7 nats with them and of 6.9
    without, more than the time is worth. On JAX every length would be compiled.
    """
    if not (config.data.reading.has_end and wishes.is_small and backend() == "tensorflow"):
        return Choice({}, "")
    return Choice(
        {"training.length_buckets": True},
        "batches have texts of similar length, because the time is short for "
        f"{MOST_PASSES_OF_SIMILAR_LENGTH} passes over mixed ones",
    )


def sizes(config: Config, texts: Sequence[str], wishes: Wishes) -> Choice:
    """Sizes of the model and settings of the optimizer."""
    latent = 32 if wishes.is_small else 128
    is_char = config.model.tokenizer == "char"
    skips = "head_skip" in HEADS[config.model.head].reads and config.model.head_reads != "state"
    return Choice(
        {
            **({"model.head_skip": True} if skips and config.model.has_code else {}),
            "model.encoder_embedding": 0 if is_char and config.data.max_symbols <= 256 else 128,
            "model.encoder_units": (128, 256),
            "model.latent_size": (latent,),
            "model.expander_filters": (256, 128),
            "model.head_units": 256,
            "training.batch_size": 64,
            "training.learning_rate": 5e-3,
            "training.frequency_bias": True,
            # TensorFlow's plain graphs take batches of any length; on JAX, false is for debugging.
            "training.jit_compile": backend() != "tensorflow",
        },
        f"a model that learns in minutes on a CPU, with a code of {latent} numbers",
    )


def rate(config: Config, texts: Sequence[str], wishes: Wishes) -> Choice:
    """The objective that makes the code carry the wished nats.

    Batch normalisation fixes the spread g of the d posterior means, so that the code cannot
    collapse (Zhu et al. 2020). Where the aggregated posterior is N(0, I), the posterior variances
    are 1 - g^2 and the KL is -d log(1 - g^2) / 2. Two auxiliary losses and hidden previous tokens
    make the decoder read the code (Semeniuta et al. 2017; Zhao et al. 2017; Bowman et al. 2016).
    """
    size = config.model.latent_size[-1]
    spread = math.sqrt(1.0 - math.exp(-2.0 * wishes.nats / size))
    return Choice(
        {
            "model.posterior": "batch_normalized",
            "model.posterior_scale": round(spread, 4),
            "objective.moments": 2.0,
            "objective.alpha": 1.0,
            "objective.bag_of_words": 1.0,
            "objective.input_dropout": 0.1 if wishes.is_small else 0.3,
        },
        f"the code carries about {wishes.nats:g} nats (--goal, --rate)",
    )


def held_out_share(config: Config, source: Source) -> Choice:
    """A smaller share of held-out texts for a large corpus."""
    texts = sum(len(records.texts) for records in source.blocks([]))
    share = max(1e-4, min(config.data.validation_fraction, HELD_OUT_TEXTS / texts))
    if share == config.data.validation_fraction:
        return Choice({}, "")
    return Choice(
        {"data.validation_fraction": round(share, 6)},
        f"about {share * texts:,.0f} of {texts:,} texts are held out",
    )


@dataclass(frozen=True)
class Timing:
    """What fits into the time that is left."""

    steps: int
    step_seconds: float
    seconds: float
    """Time for steps."""
    validation_seconds: float


def timed(prepared: Prepared, clock: Clock) -> Timing:
    """The number of steps that fit into the time that is left, measured on some of them."""
    seconds = step_seconds(prepared)
    batches = len(prepared.validation) / batch_size_of(prepared)
    validation = (EPOCHS + 1) * batches * seconds / 2  # no gradients, larger batches
    available = clock.seconds_left - END_SECONDS - validation
    return Timing(int(SAFETY * available / seconds), seconds, available, validation)


def steps_choice(prepared: Prepared, clock: Clock, timing: Timing) -> Choice:
    """The number of steps, which fits into the time. Raises `ConfigError` if that is too short."""
    in_time, seconds, available = timing.steps, timing.step_seconds, timing.seconds
    similar = prepared.config.training.length_buckets
    passes = MOST_PASSES_OF_SIMILAR_LENGTH if similar else MOST_PASSES
    most = min(in_time, passes * steps_of_a_pass(prepared))
    steps = most - most % EPOCHS if most > EPOCHS else most  # epochs of equal length
    if in_time < EPOCHS:
        raise ConfigError(
            f"--minutes {clock.minutes:g}: {max(available, 0):.0f} seconds are left for training, "
            f"and a step takes {seconds:.1f}; give more minutes, or --steps"
        )
    limit = "" if most == in_time else f", but more than {steps:,} would learn texts by heart"
    minutes = round((available + timing.validation_seconds) / 60, 2)
    settings = schedule(prepared.config, steps) | {"training.minutes": minutes}
    return Choice(
        settings,
        f"a step takes {1000 * seconds:.0f} ms, so that {in_time:,} steps fit into "
        f"{clock.minutes:g} minutes{limit}; the weight of the KL rises in the "
        f"first {settings['objective.ramp_steps']:,}",
    )


def schedule(config: Config, steps: int) -> dict[str, Any]:
    """The settings that follow from the number of steps."""
    auxiliary = config.objective.alpha > 0 or config.objective.bag_of_words > 0
    cosine = config.training.learning_rate_schedule == "cosine"
    return {
        "training.steps": steps,
        "training.steps_per_epoch": max(-(-steps // EPOCHS), 1),
        "objective.ramp_start": 0,
        "objective.ramp_steps": int(RAMP * steps),
        "objective.alpha_hold": int(ALPHA_HOLD * steps) if auxiliary else 0,
        "objective.alpha_decay_steps": int(ALPHA_DECAY * steps) if auxiliary else 0,
        "training.learning_rate_warmup": min(WARM_UP_STEPS, steps // 10) if cosine else 0,
    }
