"""Reading texts from files. Needs neither Keras nor `training/`."""
