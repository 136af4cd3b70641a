"""The card of a bundle: `README.md`, which tells people what the model is.

It is made from the manifest. It is not a part of it, so its owner may edit it or delete it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvae.serving.alphabet import Alphabet, one_line
from kvae.serving.choices import default_temperature

METRICS = {
    "texts": "held-out texts",
    "elbo": "nats a text: an upper bound on -log p(text), lower is better",
    "reconstruction": "nats a text, of `elbo`: -log p(text given its code)",
    "kl": "nats a text, of `elbo`: what the code says about the text",
    "bits_per_character": "bits, end marks included",
    "perplexity": "per token, end marks included",
    "active_units": "dimensions of the code whose mean varies from text to text",
    "mutual_information": "nats, between text and code",
    "attribute_accuracy": "share of labels that the classifier finds",
}
"""Metrics of `training` in a manifest that a card shows, each with its unit and meaning."""

MAX_SYMBOLS = 500
"""Largest alphabet of characters that a card lists."""

CARD = """---
license: unknown  # for the owner of the model to fill in
library_name: kvae
tags: [onnx, text-generation]
---

# {title}

{about}

This page was written by `kvae export`. It is not checked by anything: edit it.

## The model

{model}

## Numbers

{numbers}

## Use

In Python, with numpy and onnxruntime alone (`pip install kvae-text`):

```python
from kvae.serving import Sampler

sampler = Sampler.load("bundle")  # this folder
sampler.sample(5, seed=0)
sampler.score(["a text"])  # nats{encode}
```

In Node and on a web page, with `examples/javascript` of kvae:

```js
import {{ inFolder }} from "./kvae/folder.js";
import {{ Sampler }} from "./kvae/index.js";

const sampler = await Sampler.load(inFolder("bundle"));
await sampler.sample(5, 0);
```

In C, C#, Java, Rust or Swift, run the graphs with onnxruntime. `docs/graphs.md` of kvae describes
them, and `examples/c` is a client:

```sh
kvae-client bundle sample 5 0
```

Seed 0 gives the same texts in all of them. `kvae verify` checks the files of this folder.

## Limits

{limits}

## Licence

Not stated. The owner of the model names the licence here, and the rights in the texts that it was
trained on.
"""


def card_of(manifest: Mapping[str, Any]) -> str:
    """The text of a card, in Markdown, from a complete manifest."""
    source = code(manifest["training"]["source"])
    kind = "language model" if manifest["latent"]["kind"] == "none" else "variational autoencoder"
    return CARD.format(
        title=f"A text model of {source}",
        about=f"A {kind} for text, trained on {source} and exported by kvae "
        f"{manifest['versions'].get('kvae', '')} as ONNX graphs. Model id: "
        f"`{manifest['model_id']}`.",
        model=bullets(model_lines(manifest)),
        numbers="\n".join(number_lines(manifest)),
        encode=""
        if manifest["latent"]["kind"] == "none"
        else '\nsampler.encode(["a text"], unknown="replace")  # codes (n, d)',
        limits=bullets(limit_lines(manifest)),
    )


def model_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the model is made of, and what it samples by default."""
    shape, latent = manifest["model"], manifest["latent"]
    if latent["kind"] == "none":
        yield f"No latent code; decoder `{shape.get('head', '')}`."
    else:
        yield (
            f"Encoder `{shape.get('encoder', '')}`, {latent['kind']} code of {latent['size']} "
            f"numbers in {latent['levels']} level{'s' * (latent['levels'] != 1)}, "
            f"{latent['prior']} prior, decoder `{shape.get('expander', '')}` and "
            f"`{shape.get('head', '')}`."
        )
    if latent["attributes"]:
        values = ", ".join(map(code, latent["attributes"][:20]))
        yield f"The last columns of a code are its label, one column for each value: {values}."
    yield f"Samples have the temperature {default_temperature(manifest):g} if none is given."
    if "quantization" in manifest:
        yield "The weights are stored in eight bits."
    texts = [text for text in manifest["seed_test"].get("texts", []) if text]
    if texts:
        yield f"Samples at temperature 1: {'; '.join(code(text[:200]) for text in texts)}."


def number_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Tables of the evaluation on held-out texts and of the comparison with Keras."""
    training = manifest["training"]
    found = {
        name: training[name] for name in METRICS if isinstance(training.get(name), int | float)
    }
    if found:
        yield "| held-out texts | value | unit |\n|---|---:|---|"
        yield from (f"| `{name}` | {shown(v)} | {METRICS[name]} |" for name, v in found.items())
    else:
        yield "The model was not evaluated."
    parity = manifest["parity"]
    yield "\n| the graphs beside Keras | value | unit |\n|---|---:|---|"
    yield f"| largest difference of a logit | {parity['largest_turn_difference']:.1e} | nats |"
    yield f"| texts that decode alike | {parity['greedy_rows_equal']} | of {parity['rows']} |"
    if "quantization" in manifest:
        effect = manifest["quantization"]
        yield f"| bound in eight bits | {effect['bound']:.2f} | nats a text |"
        yield f"| bound in 32 bits | {effect['bound_in_float32']:.2f} | nats a text |"


def limit_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What the model does not know or cannot do."""
    alphabet = Alphabet.from_dict(manifest["vocabulary"])
    lines, length = manifest["mode"] == "lines", manifest["length"]
    tokens, symbols = alphabet.rules.tokens, manifest["vocabulary"]["symbols"]
    longest = f"at most {length - 1}" if lines else f"exactly {length}"
    yield (
        f"**Length.** It encodes and samples texts of {longest} {tokens}. Longer ones are refused"
        + (', or cut by `score(..., too_long="cut")`.' if lines else ".")
    )
    known = f"It knows {len(symbols):,} {tokens}"
    if alphabet.tokenizer == "char" and len(symbols) <= MAX_SYMBOLS:
        known += f": {code(''.join(symbols))}"
    yield f"**Alphabet.** {known}." + (
        " It reads texts in lower case." if alphabet.fold_case else ""
    )
    if alphabet.tokenizer != "byte":
        yield (
            f"**Unknown {alphabet.rules.unit}.** `encode` refuses others unless "
            '`unknown="replace"` is given; `score` counts them as one unknown symbol, which is '
            "improbable. It never samples them."
        )
    yield (
        "**Meaning.** It imitates the texts that it was trained on, with their errors and their "
        "bias, and may repeat some of them. It knows nothing else: what it samples is not true or "
        "checked."
    )
    yield (
        "**Scores.** A score is an upper bound, estimated from one random code per text; more "
        "`samples` make it steadier. Compare scores of this model only."
    )
    if "map" in manifest:
        yield "**Privacy.** `map.json` holds held-out texts as they are. It may be deleted."


def shown(value: Any) -> str:
    """A number of a table."""
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def code(text: str) -> str:
    """A text of any content as code on one line, also if it has backticks."""
    line = one_line(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    edge = " " if line.startswith(("`", " ")) or line.endswith(("`", " ")) else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def bullets(lines: Iterable[str]) -> str:
    """Sentences as a list."""
    return "\n".join(f"- {line}" for line in lines)
