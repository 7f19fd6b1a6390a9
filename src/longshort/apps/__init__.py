"""Applications on the LSTM. They do not know each other."""
