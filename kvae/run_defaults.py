"""What a run is like if nothing is said about it; without Keras, for the help of the commands."""

PRESET = "hybrid-lstm"
"""The preset that a run starts from."""

MINUTES = 10.0
"""Minutes of a run whose length is not given."""
