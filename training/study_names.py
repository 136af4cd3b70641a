"""The names of the studies of `kvae reproduce`, in order; this module imports without Keras."""

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
