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

STUDIES: dict[str, Study] = {
    "toy": toy.STUDY,
    "twitter": twitter.STUDY,
    "historyless": historyless.STUDY,
    "length": length.STUDY,
    "alpha": alpha.STUDY,
    "receptive-field": receptive_field.STUDY,
    "tweets": tweets.STUDY,
    "kl-target": kl_target.STUDY,
    "ptb-word": ptb_word.STUDY,
    "anti-collapse": anti_collapse.STUDY,
}
"""What `kvae reproduce` knows, by ID."""
