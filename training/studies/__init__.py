"""The studies of `kvae reproduce` as data: tables and figures of papers, and tables of our own.

Each module is a study; its docstring is the text of its chapter. S17 is Semeniuta et al. 2017, P18
Petersen 2018, K19 Prokhorov et al. 2019. Rows at scale `paper` have the published settings. Rows at
scale `small` have the presets' `-small` sizes (`kvae.presets.small`) and fewer steps, for two
cores.
"""

from importlib import import_module

from ..reproduction import Study
from ..study_names import STUDY_NAMES

STUDIES: dict[str, Study] = {
    name: import_module(f"{__name__}.{name.replace('-', '_')}").STUDY for name in STUDY_NAMES
}
"""The studies by their ID, the name of the module with hyphens."""
