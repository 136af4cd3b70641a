"""Configuration of a model and its training, as sections that convert to and from plain
dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kvae.serving.alphabet import MAX_LENGTH, MAX_SYMBOLS, SPECIALS
from kvae.serving.errors import ConfigError, short_repr

from .modes import MODES, Mode
from .sections import (
    LARGEST_SIZE,
    MOST_ATTRIBUTES,
    MOST_LAYERS,
    Section,
    bounded,
    nearest,
    rules,
    sized,
    slot,
)
from .slots import ENCODERS, EXPANDERS, LATENTS, SLOTS


@dataclass(frozen=True)
class ModelConfig(Section):
    """The slots and their sizes. T is `length`, V `vocabulary_size`, L the number of
    `latent_size`s."""

    length: int = bounded(0, 0, MAX_LENGTH)
    """T: positions of a text, including its end mark. 0: set from the corpus before the model is
    built."""
    vocabulary_size: int = bounded(0, 0, len(SPECIALS) + MAX_SYMBOLS)
    """V: vocabulary size, including the special ids. 0: set from the corpus."""
    tokenizer: str = slot("char")
    """Unit of a token: a character, a UTF-8 byte, a word (between white space), a wordpiece, a
    match of `token_pattern`, a piece made by byte-pair encoding, or a registered tokenizer's."""
    token_pattern: str = ""
    """Regular expression of tokenizer `pattern`, of the subset in `kvae.serving.patterns`."""
    attributes: tuple[str, ...] = field(
        default=(), metadata={"max_items": MOST_ATTRIBUTES, "distinct": True}
    )
    """Values of the label that conditions the texts; set from the corpus with `data.labels`. Empty:
    no label."""

    encoder: str = slot("conv")
    """One of `kvae.slots.ENCODERS`."""
    encoder_embedding: int = sized(0, 0)
    """Size of the token embeddings that the encoder reads. 0: one-hot vectors."""
    encoder_units: tuple[int, ...] = sized((64, 128), 1)
    """Filters or units of each layer, bottom first. A convolution (kernel 3, stride 2) halves the
    positions."""
    encoder_bidirectional: bool = False
    """Whether recurrent layers read in both directions, each direction with the full number of
    units."""
    encoder_attention_heads: int = bounded(4, 1, LARGEST_SIZE)
    """Attention heads of each layer of a Transformer encoder; a divisor of `encoder_units`."""
    encoder_dropout: float = bounded(0.0, 0.0, 0.95)
    """Dropout rate of a Transformer encoder: of its inputs, its attention and the outputs of its
    sublayers (Vaswani et al. 2017, 5.4)."""
    encoder_summary: Literal["mean", "first"] = "mean"
    """What the summary of a Transformer encoder is: the mean of its rows, or the first row."""
    encoder_normalization: Literal["before", "after"] = "before"
    """Whether the sublayers of a Transformer encoder are normalised before (Xiong et al. 2020) or
    after the sum with their inputs (Vaswani et al. 2017), as in BERT."""

    latent: str = slot("dense")
    """`dense`: one vector. `map`: one vector per position of the encoder's features. `none`: a
    language model."""
    latent_size: tuple[int, ...] = sized((32,), 1)
    """Size of the vector (of each position). Several sizes, bottom first: a ladder with as many
    levels."""
    posterior: str = slot("free")
    """`free`: a Gaussian. `batch_normalized`: fixes the spread of its means, a lower bound on the
    KL (Zhu et al. 2020). `iaf`, `planar`: a flow transforms the Gaussian of the top level (Kingma
    et al. 2016; Rezende and Mohamed 2015)."""
    posterior_scale: float = bounded(0.5, 0.0)
    """Spread of batch-normalised means: gamma of Zhu et al. 2020."""
    posterior_layers: int = bounded(4, 1, MOST_LAYERS)
    """Number of steps of a posterior flow."""
    posterior_units: int = sized(64, 1)
    """Hidden units of the autoregressive network of each step of `iaf`."""

    prior: str = slot("standard")
    """Prior of the top level. Each level below has a learned Gaussian prior given the level
    above."""
    prior_components: int = sized(10, 1)
    """K: number of components of priors `mixture` and `vamp`."""
    prior_covariance: Literal["diagonal", "full"] = "diagonal"
    """Covariance of each component of prior `mixture`. `full` is what `kvae fit-prior` fits."""
    prior_rate: float = bounded(2.0, 0.0)
    """Minimum KL under the `autoregressive` prior in nats (delta of Razavi et al. 2019)."""
    prior_layers: int = bounded(4, 1, MOST_LAYERS)
    """Number of coupling layers of prior `flow`."""
    prior_units: int = sized(64, 1)
    """Hidden units of the network of each coupling layer."""

    expander: str = slot("deconv")
    """One of `kvae.slots.EXPANDERS`."""
    expander_filters: tuple[int, ...] = sized((128, 64), 1)
    """Filters of each deconvolution, which doubles the positions. The last is C, the width that the
    head reads."""
    expander_base: int = sized(128, 0)
    """Filters of the coarse grid before the deconvolutions, or size of a ReLU layer before `repeat`
    (0: none)."""

    head: str = slot("lstm")
    """One of `kvae.slots.HEADS`."""
    head_units: int = sized(192, 1)
    head_layers: int = bounded(1, 1, MOST_LAYERS)
    """Number of layers of `transformer`, or of causal convolutions of `bytenet` and
    `gated_conv`."""
    head_attention_heads: int = bounded(4, 1, LARGEST_SIZE)
    """Attention heads of each layer of a Transformer head; a divisor of `head_units`."""
    head_kernel: int = bounded(2, 2, MAX_LENGTH)
    """Kernel size of a causal convolution."""
    head_dilation: int = bounded(1, 1, MAX_LENGTH)
    """Ratio of the dilations of successive causal convolutions; the first has dilation 1."""
    head_embedding: int = sized(0, 0)
    """Size of the embeddings of previous tokens. 0: the width that the head needs."""
    head_reads: Literal["steps", "state", "both"] = "steps"
    """Where a recurrent head or a Transformer reads the features: every step, its initial state
    (Bowman et al. 2016), or both. The initial state of a Transformer is a memory that all positions
    attend to (Li et al. 2020)."""
    head_skip: bool = False
    """Whether a recurrent head adds a linear map of the features to its outputs before the
    classifier, a skip connection (Dieng et al. 2019)."""
    head_layer_normalization: bool = True
    head_dropout: float = bounded(0.0, 0.0, 0.95)
    """Dropout rate of token embeddings and of the outputs before the classifier in a recurrent head
    (Zaremba et al. 2014) or a Transformer, whose attention and sublayers have it too."""
    tied_embeddings: bool = False
    """Whether the classifier of a recurrent head or a Transformer uses the embeddings of previous
    tokens (Press and Wolf 2017)."""
    auxiliary: bool = True
    """Whether the expander's features also predict the text alone; the auxiliary loss needs
    this."""

    batch_normalization_momentum: float = bounded(0.9, 0.0, 0.999)
    """Momentum of the moving statistics. Above 0.9 they lag in short runs and validation KL is near
    zero."""

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
        """Whether each level of the code is a map (T', c), a vector for each position of the
        encoder's features."""
        return LATENTS[self.latent].positions

    @property
    def encoder_stride(self) -> int:
        """Stride of the encoder's top layer, in positions of the text."""
        stride: int = ENCODERS[self.encoder].stride ** len(self.encoder_units)
        return stride

    @property
    def expander_stride(self) -> int:
        """Factor by which the expander multiplies the positions."""
        stride: int = EXPANDERS[self.expander].stride ** len(self.expander_filters)
        return stride


@dataclass(frozen=True)
class ObjectiveConfig(Section):
    """The training loss: reconstruction + penalty(KL) + alpha * auxiliary, nats per sequence.

    Semeniuta et al. 2017, equations 3 and 4.
    """

    penalty: str = slot("annealed")
    """One of `kvae.slots.PENALTIES`."""
    schedule: str = slot("linear")
    """Shape of the ramp from 0 to 1, one of `kvae.slots.SCHEDULES`. The ramp scales beta, or the
    target C of the constrained penalties."""
    cycles: int = bounded(4, 1)
    """Number of cycles of `cyclical` within the ramp (Fu et al. 2019)."""
    beta_max: float = bounded(1.0, 0.0)
    importance_samples: int = bounded(1, 1)
    """K: codes of a text in a training step. Above 1 the loss is the importance-weighted bound
    (Burda et al. 2016), with beta in the exponent of p(z) / q(z given x)."""
    importance_gradient: Literal["standard", "doubly_reparameterized"] = "standard"
    """Gradient of the encoder with several codes. `doubly_reparameterized`: unbiased too, with less
    noise the more codes there are (Tucker et al. 2019)."""
    ramp_start: int = bounded(0, 0)
    """Training step at which the ramp leaves 0."""
    ramp_steps: int = bounded(1000, 0)
    """Training steps that the ramp takes from 0 to 1. 0: the ramp is 1 from its start."""
    ramp_after_convergence: bool = False
    """Hold the ramp at 0 until the loss stops falling; then ramp for at least 20 % of the steps
    until then."""
    kl_target: float = bounded(15.0, 0.0)
    """C of the constrained penalties, in nats per sequence."""
    free_bits: float = bounded(0.5, 0.0)
    """Nats of KL without a penalty, per dimension or in total."""
    free_bits_over: Literal["dimension", "total"] = "dimension"
    alpha: float = bounded(0.2, 0.0)
    alpha_hold: int = bounded(0, 0)
    """Training step at which alpha and `bag_of_words` begin to decay, if `alpha_decay_steps` is
    above 0."""
    alpha_decay_steps: int = bounded(0, 0)
    """Training steps of their linear decay to 0. 0: they are constant."""
    mmd: float = bounded(0.0, 0.0)
    """Weight of the squared maximum mean discrepancy between codes and prior (InfoVAE, Zhao et al.
    2019)."""
    moments: float = bounded(0.0, 0.0)
    """Weight of the distance between the aggregated posterior's moments and those of the prior, in
    nats (after DIP-VAE-II, Kumar et al. 2018). KL that says nothing about the text then costs,
    also where KL is free."""
    bag_of_words: float = bounded(0.0, 0.0)
    """Weight of a loss for which the code alone predicts the tokens of the text in any order
    (Zhao et al. 2017)."""
    input_dropout: float = bounded(0.0, 0.0, 1.0)
    """Fraction of previous tokens hidden from the head (Bowman et al. 2016). 1: a decoder without
    history."""
    warm_start_steps: int = bounded(0, 0)
    """Steps of training without a penalty before the decoder is reinitialised (Li et al. 2019)."""
    encoder_updates: int = bounded(0, 0)
    """Encoder updates per decoder update while the encoder lags (He et al. 2019). 0: one joint
    update."""
    semi_supervised: bool = False
    """Marginalise over the attribute where a text has no label (M2, Kingma et al. 2014)."""
    classifier_weight: float = bounded(1.0, 0.0)
    """Weight of -log q(attribute | text) where the label is known."""
    count_padding: bool = True
    """Whether the loss counts padding, as in Semeniuta et al. 2017. Reported metrics never count
    it."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """Length of the training, optimizer, precision and devices."""

    epochs: int = bounded(10, 1)
    steps: int | None = bounded(None, 1)
    """Total training steps; when given it replaces `epochs`."""
    minutes: float | None = bounded(None, 0.0)
    """Minutes after which training stops, even before its last step. None: no limit."""
    steps_per_epoch: int | None = bounded(None, 1)
    """Training steps between two validations. None: one pass through the corpus."""
    batch_size: int = bounded(64, 1)
    length_buckets: bool = False
    """Batch texts of similar length and trim each batch to its longest text. Model and loss must
    not use padding."""
    start_from: str | None = None
    """Run or `.keras` file whose weights initialise the model where names and shapes match; or
    `keras-nlp:FOLDER`, a preset that keras-nlp saved, of BERT for the encoder or of GPT-2 for the
    head; or `keras-nlp:FOLDER,FOLDER`, one for each."""
    learning_rate: float = bounded(1e-3, 0.0)
    learning_rate_schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    """`cosine` decays to 0 at the last step. `exponential` multiplies by `learning_rate_decay`
    every 1,000 steps after `learning_rate_hold` thousand steps (Semeniuta et al. 2017: 0.95 after
    20)."""
    learning_rate_warmup: int = bounded(0, 0)
    """Steps in which the learning rate rises from 0, before the decay of `cosine`."""
    learning_rate_decay: float = bounded(0.95, 0.0, 1.0)
    learning_rate_hold: int = bounded(20, 0)
    weight_decay: float = bounded(0.0, 0.0)
    """Weight decay, decoupled from the gradient (Loshchilov and Hutter 2019)."""
    clip_norm: float = bounded(5.0, 0.0)
    """Maximum global norm of the gradients."""
    jit_compile: bool = True
    """Compile the steps with XLA: 1.4 times as fast for the LSTM head on two cores, after some
    seconds of compilation. On JAX, false runs every operation separately, for debugging."""
    steps_per_execution: int = bounded(1, 1)
    """Training steps per call; the progress bar and callbacks run between calls. The steps of an
    epoch and of the run should be a multiple of it, because the last call runs all of its steps."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Precision of the layers. Weights, probabilities and losses are always float32, and so is the
    export."""
    frequency_bias: bool = False
    """Start the output biases at the log frequencies of the training tokens, which training would
    otherwise learn first."""
    early_stopping: int = bounded(0, 0)
    """Epochs after the ramp without a better held-out bound before training stops with the best
    weights. 0: never."""
    checkpoint_steps: int | None = bounded(None, 1)
    """Steps between checkpoints within an epoch. None: every ten minutes. Each epoch also ends with
    a checkpoint."""
    devices: int = bounded(1, 1)
    """Number of devices of this machine (with TF_CONFIG: of each worker) that share a batch."""
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"
    """What happens when the latent code is unused after the ramp. `warn`: a warning with remedies.
    `stop`: the same warning, then training stops. `ignore`: nothing."""
    seed: int = bounded(0, 0, 2**32 - 1)


@dataclass(frozen=True)
class DataConfig(Section):
    """Corpus, and how its texts become rows of tokens."""

    source: str = "unicode-names"
    """Named corpus (`kvae data list`), a file (plain, .gz, .bz2, .xz, .zst), or
    a folder or pattern of such files."""
    mode: Literal["lines", "files", "windows", "fixed"] = "lines"
    """`lines`: one text per line or row. `files`: one text per file. `fixed`: lines of exactly T
    tokens, without an end mark. `windows`: the file is one stream, split into windows of T
    tokens."""
    format: Literal["auto", "lines", "csv", "tsv", "jsonl", "parquet", "arrow", "fasta", "text"] = (
        "auto"
    )
    """Format of the files. `auto`: what the name and the first bytes of each file tell."""
    column: str = ""
    """Column of a table with the texts: its name, a dotted key or its number from 1. Empty: the
    only column of texts."""
    label_column: str = ""
    """Column of a table with the labels. Empty: none."""
    storage: Literal["auto", "memory", "disk"] = "auto"
    """Where the training tokens are stored. `auto`: on disk, in the folder KVAE_DATA, if the corpus
    has more than 256 MB or more than 8,388,608 lines; otherwise in memory."""
    validation: str | None = None
    """File with the held-out texts. None: hold out `validation_fraction` of the lines, selected by
    `split_seed`."""
    labels: str | None = None
    """File with one label per line of `source`, empty if unknown. `corpus`: the labels of a named
    corpus."""
    validation_labels: str | None = None
    """File with one label per line of `validation`, empty if unknown."""
    labelled_fraction: float = bounded(1.0, 0.0, 1.0)
    """Fraction of the labels that training uses."""
    validation_fraction: float = bounded(0.05, 0.0001, 0.9)
    split_seed: int = bounded(0, 0, 2**32 - 1)
    split: Literal["lines", "texts"] = "lines"
    """Unit of both fractions: lines, or distinct texts as in old runs. Equal lines are always in
    the same split."""
    fold_case: bool = False
    """Whether texts are read in lower case, also by the encoder of a bundle."""
    too_long: Literal["refuse", "cut", "drop"] = "refuse"
    """What happens to lines that are longer than the model's length."""
    vocabulary: str | None = None
    """File with the vocabulary: a list of symbols, a `vocab.txt` of wordpieces, or a
    `tokenizer.json`. None: made from the training texts."""
    max_symbols: int = bounded(0, 0)
    """Maximum vocabulary size; rarer tokens become the unknown token. 0: 256 characters, 10,000
    words, wordpieces or matches of a pattern."""
    min_count: int = bounded(1, 1)
    """Minimum number of occurrences of a character, word or match in the vocabulary."""

    @property
    def reading(self) -> Mode:
        """The mode, as data."""
        return MODES[self.mode]

    @property
    def has_labels(self) -> bool:
        """Whether the texts are labelled."""
        return bool(self.labels or self.label_column)


@dataclass(frozen=True)
class Config(Section):
    """Complete configuration of a run, stored as `config.json` in the run folder."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)

    @classmethod
    def from_stored(cls, data: Mapping[str, Any]) -> Config:
        """Build from the dictionary of a stored run. Fields newer than the run take the value that
        old runs used."""
        section = data.get("data") if isinstance(data, Mapping) else None
        return cls.from_dict(
            {**data, "data": {**OLD_RUN_DEFAULTS, **section}}
            if isinstance(section, Mapping)
            else data
        )

    def with_split_of(self, stored: Config) -> Config:
        """A copy with the `data.split` of `stored`, so that the same texts are held out, and with
        its `data.format` unless another one than `auto` is asked for."""
        form = stored.data.format if self.data.format == "auto" else self.data.format
        return self.with_settings({"data.split": stored.data.split, "data.format": form})

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        """A copy with dotted keys replaced: `config.with_settings({"model.latent_size": 64})`."""
        changed = self
        for key, value in settings.items():
            section, _, name = key.partition(".")
            if section not in rules(Config) or not name:
                raise ConfigError(
                    f"setting {short_repr(key)}: a key is SECTION.NAME{nearest(key, dotted_keys())}"
                )
            part = getattr(changed, section)
            if name not in rules(type(part)):
                raise ConfigError(
                    f"setting {short_repr(key)}: {section} has no key "
                    f"{short_repr(name)}{nearest(key, dotted_keys())}"
                )
            changed = replace(changed, **{section: replace(part, **{name: value})})
        return changed


def described(model: ModelConfig) -> str:
    """The slots and sizes of a model in a line, for people."""
    slots = ", ".join(f"{slot} {getattr(model, slot)}" for slot in SLOTS)
    code = f"code {' + '.join(map(str, model.latent_size))}, " if model.has_code else ""
    return f"{slots}; {code}length {model.length}, {model.vocabulary_size} symbols"


OLD_RUN_DEFAULTS = {"split": "texts", "format": "lines"}
"""Values of `DataConfig` fields in runs older than the field, where they differ from its
default."""


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `"model.latent_size=64"` into key and value. The value is parsed as JSON if possible,
    else a string."""
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
    """The value of a dotted key in `config`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
