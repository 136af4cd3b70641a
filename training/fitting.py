"""`kvae.fit`: a model of one's own texts in one call, with the plan of `kvae train --minutes`."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kvae.presets import preset
from kvae.run_defaults import MINUTES, PRESET
from kvae.serving.errors import ConfigError

if TYPE_CHECKING:
    from kvae.configuration import Config

    from .data.prepare import Prepared
    from .fitted import Fitted


def fit(
    texts: Any,
    minutes: float = MINUTES,
    goal: Literal["generation", "balanced", "reconstruction"] = "balanced",
    out: str | Path | None = None,
    *,
    rate: float | None = None,
    labels: Any = None,
    column: str = "",
    label_column: str = "",
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Fitted:
    """Train a model of `texts` in about `minutes`, planned, evaluated and reported as `kvae train`
    does it.

    `texts` are a list or another iterable of `str`, a column or a table of pandas or Polars, a
    dataset, or the path of a file, a folder or a pattern. `column` is the column of the texts and
    `label_column` that of the labels; `labels` are one for each given text. `goal` says how much of
    a text the code carries, or `rate` does, in nats. `settings` are those of `--set`, by dotted
    name, such as {"model.latent_size": 64}; a plan never replaces them. `say` gets each message.

    The run folder is `out`; `overwrite` removes an earlier run there. Without `out` it is a
    temporary folder that lives as long as the result. Raises `ConfigError` for arguments that do
    not work, `DataError` for texts that cannot be read, and `Diverged` if training diverges.
    """
    started = time.monotonic()
    from .end_report import reported
    from .experiment import run
    from .fitted import Fitted
    from .plan import Clock, Wishes, planned

    clock, wishes = Clock(minutes, started), Wishes(goal, rate)
    given = {"data.column": column, "data.label_column": label_column}
    given = {name: value for name, value in given.items() if value} | dict(settings or {})
    source, values = source_of(texts, labels)
    config = preset(PRESET).with_settings({**source, **given})

    def read(config: Config, say: Callable[[str], None]) -> Prepared:
        return planned(config, set(given), clock, wishes, say, values, labels)

    folder = Path(tempfile.mkdtemp(prefix="kvae-") if out is None else out)
    try:
        trained, prepared = run(config, folder, say, overwrite, read=read)
        fitted = Fitted(trained, prepared, reported(trained, prepared, say), wishes.nats)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(fitted, shutil.rmtree, folder, ignore_errors=True)
    return fitted


def source_of(texts: Any, labels: Any) -> tuple[dict[str, str], Any]:
    """Texts as the setting that names their file, and as values that are given: one of the two."""
    if not isinstance(texts, str | Path):
        return {}, texts
    if labels is not None:
        raise ConfigError("labels: are those of given texts; for a file name its label_column")
    return {"data.source": str(texts)}, None
