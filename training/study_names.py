"""The names of the studies of `kvae reproduce`, in order, for the help of the command.

This module imports without Keras. `training/studies/` has a module of each name, with underscores.
"""

STUDY_NAMES = (
    "toy",
    "twitter",
    "historyless",
    "length",
    "alpha",
    "receptive-field",
    "tweets",
    "kl-target",
    "ptb-word",
    "anti-collapse",
    "moses",
)
