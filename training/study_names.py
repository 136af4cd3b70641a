"""The names of the studies of `kvae reproduce`, in their order: the command line knows them without Keras."""

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
)
