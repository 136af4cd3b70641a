"""Data: from the texts of a corpus to batches of tokens."""
