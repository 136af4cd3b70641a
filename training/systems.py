"""Every preset's system on one corpus and one budget: `kvae reproduce systems`, which writes docs/systems.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvae.configuration import Config, DataConfig, nearest
from kvae.disk import naming
from kvae.preset_parameters import PARAMETERS
from kvae.presets import PUBLISHED, SMALL, preset
from kvae.serving.errors import ConfigError

from .corpora import CORPORA
from .reproduction import kept, measured

CORPUS = "sines"
PAGE = "systems.md"


def on_corpus(config: Config) -> Config:
    """A configuration on the common corpus, its labels included where the model wants some."""
    labels = "corpus" if config.data.labels else None
    share = config.data.labelled_fraction
    return replace(
        config, data=DataConfig(source=CORPUS, labels=labels, labelled_fraction=share)
    ).with_settings({"model.length": 0, "model.attributes": []})


def distinct(names: Sequence[str]) -> Iterator[tuple[str, Config, list[str]]]:
    """The configurations that are left when equal ones are run once: its first name, and all its names."""
    groups: dict[Config, list[str]] = {}
    for name in names:
        groups.setdefault(on_corpus(preset(name + SMALL)), []).append(name)
    for config, same in groups.items():
        yield same[0], config, same


def reproduce(
    out: str | Path,
    say: Callable[[str], None],
    rows: Sequence[str] = (),
    page: str | Path | None = None,
) -> Path:
    """Train each system in small, evaluate it, and write the table to `page` (default: in `out`); returns its path.

    Every row is a run folder in `out` with a result beside it: a row that is there with the same configuration is not
    trained again, so that an interrupted command goes on where it was. `rows` names some of the presets.
    """
    for name in rows:
        if name not in PUBLISHED:
            raise ConfigError(f"no row is called {name!r}{nearest(name, PUBLISHED)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    todo = list(distinct(list(rows) or list(PUBLISHED)))
    results: dict[str, dict[str, Any]] = {}
    taken: list[float] = []
    for place, (name, config, same) in enumerate(todo, start=1):
        result = kept(out / name, config)
        if result is None:
            left = (
                f", about {sum(taken) / len(taken) * (len(todo) - place + 1) / 60:.0f} minutes left"
                if taken
                else ""
            )
            say(f"[{place} of {len(todo)}] {name}{SMALL}{left}")
            result = measured(out / name, config, None, say)
            taken.append(result["seconds"])
        results |= dict.fromkeys(same, result)
    path = Path(page) if page else out / PAGE
    with naming(path):
        path.write_text(document(results), encoding="utf-8")
    return path


HEAD = """# Systems

Every preset, and what its `-small` size reaches on `{corpus}` after the same {steps:,} steps of {batch} texts. Made by

```
kvae reproduce systems --out runs/systems --page docs/systems.md
```

Bound, KL and information are nats per sequence on {texts:,} held-out texts; the bound is reconstruction + KL, the KL in full,
one drawn code a text. **No honest bound is below the entropy of the corpus, {entropy} nats**; guessing digits costs 36.84.
*Published* is what the source's table says of this corpus in the same unit: reconstruction times T, and KL. A `*` marks a
bound on -log p(text | label). Two kinds of rows are not made for a low bound: beta 0 (historyless autoencoders) and a KL held
at 15 nats, more than this corpus has to tell.

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
*Parameters* are those of the published size at the published length and alphabet (`kvae presets`), *small* those of the model
trained here. Presets that are equal in small share a run.
"""


def document(results: dict[str, dict[str, Any]]) -> str:
    """The page: a table with a row for each preset, in their order."""
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
    )


def table_row(name: str, result: dict[str, Any]) -> str:
    """One preset's line."""
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
        f"{item.honest}" if item.honest and item.config.data.source == CORPUS else "",
    ]
    return "| " + " | ".join(cells) + " |\n"
