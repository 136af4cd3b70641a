"""The studies of `kvae reproduce` as data: tables and figures of papers, and tables of our own.

Each module is a study; its docstring is the text of its chapter. S17 is Semeniuta et al. 2017, P18
Petersen 2018, K19 Prokhorov et al. 2019. Rows at scale `paper` have the published settings. Rows at
scale `small` have the presets' `-small` sizes (`kvae.presets.small`) and fewer steps, for two
cores.
"""

from ..reproduction import Study
from . import (
    alpha,
    anti_collapse,
    historyless,
    kl_target,
    length,
    moses,
    ptb_word,
    receptive_field,
    toy,
    tweets,
    twitter,
)
from .alpha import ALPHAS
from .historyless import reconstruction_bits
from .kl_target import TARGETS
from .length import LENGTHS
from .petersen import POSITIONS
from .receptive_field import LAYERS
from .rows import with_steps
from .toy import TOY
from .tweets import HYBRIDS
from .twitter import TWITTER

__all__ = [
    "STUDIES",
    "ALPHAS",
    "HYBRIDS",
    "LAYERS",
    "LENGTHS",
    "POSITIONS",
    "TARGETS",
    "TOY",
    "TWITTER",
    "with_steps",
    "reconstruction_bits",
]

MODULES = (
    toy,
    twitter,
    historyless,
    length,
    alpha,
    receptive_field,
    tweets,
    kl_target,
    ptb_word,
    anti_collapse,
    moses,
)

STUDIES: dict[str, Study] = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module.STUDY for module in MODULES
}
"""The studies by their ID, the name of the module with hyphens.

The command line takes the IDs from `kvae.training.study_names`, which imports without Keras.
"""
