"""What `kvae.fit` returns: a trained run with the methods of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from kvae.serving.sampler import Sampler

if TYPE_CHECKING:
    from kvae.runs import Run

    from .data.prepare import Prepared

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def of_sampler(
    method: Callable[Concatenate[Sampler, Arguments], Result],
) -> Callable[Concatenate[Fitted, Arguments], Result]:
    """A method of `Sampler` as one of `Fitted`, with the same arguments."""

    @wraps(method)
    def call(self: Fitted, *arguments: Any, **named: Any) -> Any:
        return getattr(self.sampler, method.__name__)(*arguments, **named)

    return cast("Callable[Concatenate[Fitted, Arguments], Result]", call)


class Fitted:
    """A model that was trained on texts: `kvae.fit(texts).sample(5, seed=0)`.

    Its methods are those of `Sampler`. The first call exports the run into its folder and compares
    the bundle with Keras, which takes less than a minute; so it needs TensorFlow and the extra
    `export`. The texts are those that the exported bundle gives anywhere.
    """

    def __init__(self, run: Run, prepared: Prepared, report: dict[str, Any], rate: float) -> None:
        self.run = run
        """The run: `path`, `config`, `alphabet` and `model`."""
        self.prepared = prepared
        """Its texts as tokens, with the held-out ones."""
        self.report = report
        """What `kvae train --json` prints: metrics, texts, comparisons and `findings`."""
        self.rate = rate
        """Nats that the code was planned to carry."""

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler of the run's bundle. Raises `ConfigError` on another backend than
        TensorFlow."""
        path = self.run.path / "bundle"
        return Sampler.load(path if path.exists() else self.export(path))

    def export(self, path: str | Path, *, weights: str = "float32", with_map: bool = True) -> Path:
        """Write a bundle into the new folder `path`, as `kvae export` does, and return the path.

        `weights` is "float32", or "int8" or "int8-latency" for eight bits. `with_map` adds a map
        with up to 500 held-out texts.
        Raises `ConfigError` if `path` exists, and `CheckFailed` if the bundle is not the model.
        """
        from kvae.export.bundle import write_bundle

        run, prepared = self.run, self.prepared
        write_bundle(
            run.model,
            run.alphabet,
            run.config,
            path,
            run.evaluation,
            prepared.validation,
            labels=prepared.validation_attribute,
            weights=weights,
            with_map=with_map,
            temperature=run.temperature,
        )
        return Path(path)

    def diagnose(self, texts: int = 1000, *, seed: int = 0) -> dict[str, Any]:
        """What `kvae diagnose --json` prints: whether the code is used, by which dimensions, where
        in a text, and what to change (docs/diagnosis.md). It measures at most `texts` held-out
        texts. Raises `ConfigError` and `DataError` as the command does."""
        from .advice import advised
        from .diagnosis import diagnose
        from .end_report import held_out_of

        found = diagnose(self.run, held_out_of(self.prepared), texts, seed)
        return {**found, **advised(self.run, found)}

    sample = of_sampler(Sampler.sample)
    encode = of_sampler(Sampler.encode)
    decode = of_sampler(Sampler.decode)
    reconstruct = of_sampler(Sampler.reconstruct)
    score = of_sampler(Sampler.score)
    interpolate = of_sampler(Sampler.interpolate)
    neighbours = of_sampler(Sampler.neighbours)

    def __repr__(self) -> str:
        report, config = self.report, self.run.config
        size = f"{len(self.prepared.train):,}"
        texts = f"{size} tokens" if config.data.reading.is_stream else f"{size} texts"
        parts = [f"{texts}, {int(self.run.model.training_steps):,} steps"]
        if "elbo" in report:
            parts.append(
                f"bound {report['elbo']:.2f} nats a text, "
                f"{report['bits_per_character']:.3f} bits a character"
            )
        if "mutual_information" in report:
            parts.append(
                f"KL {report['kl']:.2f} nats at a planned rate of {self.rate:g}, information "
                f"{report['mutual_information']:.2f} of at most "
                f"{report['mutual_information_ceiling']:.2f}"
            )
        return f"<Fitted {str(self.run.path)!r}: {'; '.join(parts)}>"
