"""The studies of `kvae reproduce`: the tables and figures of the seed papers, and tables of our own, as data.

S17 is Semeniuta et al. 2017, P18 Petersen 2018, K19 Prokhorov et al. 2019. Each module is a study, its docstring the text of
its chapter. `paper` rows are the published settings; `small` ones are the presets' `-small` sizes (`kvae.presets.small`) with
fewer steps, for two cores.
"""

from ..reproduction import Study
from . import (
    alpha,
    anti_collapse,
    historyless,
    kl_target,
    length,
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
from .rows import lasting
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
    "lasting",
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
)

STUDIES: dict[str, Study] = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module.STUDY for module in MODULES
}
"""What `kvae reproduce` knows, by ID: the module's name. The command line knows the IDs from `study_names`, without Keras."""
