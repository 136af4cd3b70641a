"""Train every preset on one corpus with one budget: `kvae reproduce systems`, docs/systems.md."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvae.configuration import Config, DataConfig
from kvae.preset_parameters import PARAMETERS
from kvae.presets import PUBLISHED, SMALL, preset
from kvae.sections import nearest
from kvae.serving.errors import ConfigError
from kvae.writing import write_text

from .data.named_corpora import CORPORA
from .reproduction import finished_result, train_and_measure

CORPUS = "sines"
PAGE = "systems.md"


def on_corpus(config: Config) -> Config:
    """The configuration on the common corpus, with the corpus' labels if the model reads labels."""
    data = DataConfig(
        source=CORPUS,
        labels="corpus" if config.data.labels else None,
        labelled_fraction=config.data.labelled_fraction,
    )
    return replace(config, data=data).with_settings({"model.length": 0, "model.attributes": []})


def distinct_configs(names: Sequence[str]) -> Iterator[tuple[Config, list[str]]]:
    """Each different configuration of these presets, with the names of the presets that have it."""
    groups: dict[Config, list[str]] = {}
    for name in names:
        groups.setdefault(on_corpus(preset(name + SMALL)), []).append(name)
    yield from groups.items()


def reproduce(
    out: str | Path,
    say: Callable[[str], None],
    rows: Sequence[str] = (),
    page: str | Path | None = None,
) -> Path:
    """Train and evaluate each preset's small size, write the table and return the path of its page.

    `rows` restricts this to some presets; `ConfigError` if one is unknown. `page` is systems.md in
    `out` by default. Each system has a run folder in `out` that also holds its result. A finished
    run with the same configuration is reused, so an interrupted command continues when it is run
    again.
    """
    for name in rows:
        if name not in PUBLISHED:
            raise ConfigError(f"--rows: no row is called {name!r}{nearest(name, PUBLISHED)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    todo = list(distinct_configs(list(rows) or list(PUBLISHED)))
    results: dict[str, dict[str, Any]] = {}
    seconds: list[float] = []
    for number, (config, names) in enumerate(todo, start=1):
        name = names[0]
        result = finished_result(out / name, config)
        if result is None:
            left = ""
            if seconds:
                minutes = sum(seconds) / len(seconds) * (len(todo) - number + 1) / 60
                left = f", about {minutes:.0f} minutes left"
            say(f"[{number} of {len(todo)}] {name}{SMALL}{left}")
            result = train_and_measure(out / name, config, None, say)
            seconds.append(result["seconds"])
        results |= dict.fromkeys(names, result)
    path = Path(page) if page else out / PAGE
    write_text(path, document(results))
    return path


HEAD = """# Systems

Every preset, and the result of its `-small` size on `{corpus}` after {steps:,} steps of {batch}
texts. This command makes the page:

```
kvae reproduce systems --out runs/systems --page docs/systems.md
```

Bound, KL and information are in nats per sequence, on {texts:,} held-out texts. The bound is
reconstruction + KL, with the KL at full weight and one sampled code for each text. **A correct
bound is never below the entropy of the corpus, {entropy} nats**; guessing digits costs 36.84.
*Published* is the number in the source's table for this corpus, converted to the same unit:
reconstruction times T, plus KL. A `*` marks a bound on -log p(text | label). Three kinds of rows do
not aim for a low bound: the historyless autoencoders (beta 0), those whose KL is held at 15 nats,
more than the entropy of this corpus, and `transformer-vae`, 8 nats of whose KL cost nothing.

"""

COLUMNS = {
    "preset": "---",
    "source": "---",
    "parameters": "---:",
    "small": "---:",
    "bound": "---:",
    "reconstruction": "---:",
    "KL": "---:",
    "of levels, bottom first": "---",
    "active units": "---:",
    "information": "---:",
    "published": "---:",
}

TAIL = """
*Parameters* counts the published size at the published length and alphabet (`kvae presets`).
*Small* counts the model that is trained here. Presets whose small sizes are equal share a run.
"""


def document(results: dict[str, dict[str, Any]]) -> str:
    """The text of the page: a table with a row for each preset that has a result."""
    first = next(iter(results.values()))
    training = first["asked"]["training"]
    head = HEAD.format(
        corpus=CORPUS,
        steps=training["epochs"] * training["steps_per_epoch"],
        batch=training["batch_size"],
        texts=first["texts"],
        entropy=CORPORA[CORPUS].entropy,
    )
    head += f"| {' | '.join(COLUMNS)} |\n|{'|'.join(COLUMNS.values())}|\n"
    return (
        head
        + "".join(table_row(name, results[name]) for name in PUBLISHED if name in results)
        + TAIL
        + not_measured(results)
    )


def not_measured(results: Collection[str]) -> str:
    """The sentence that names the presets without a result, or nothing."""
    missing = [f"`{name}`" for name in PUBLISHED if name not in results]
    if not missing:
        return ""
    sentence = f"Not measured: {', '.join(missing)}."
    return "\n" + textwrap.fill(sentence, 100, break_on_hyphens=False) + "\n"


def table_row(name: str, result: dict[str, Any]) -> str:
    """The line of one preset."""
    item = PUBLISHED[name]
    levels = [result[key] for key in sorted(result) if key.startswith("kl_level_")]
    cells = [
        f"`{name}`",
        item.source,
        f"{PARAMETERS[name]:,}",
        f"{result['parameters']:,}",
        f"{result['elbo']:.2f}" + ("*" if result["asked"]["data"]["labels"] else ""),
        f"{result['reconstruction']:.2f}",
        f"{result['kl']:.2f}",
        " + ".join(f"{level:.2f}" for level in levels) if len(levels) > 1 else "",
        f"{result['active_units']} of {result['latent_size']}",
        f"{result['mutual_information']:.2f}",
        f"{item.published_nats}"
        if item.published_nats and item.config.data.source == CORPUS
        else "",
    ]
    return "| " + " | ".join(cells) + " |\n"
