"""Measurements, side by side with a peer in the same run: `make bench`. Machines are noisy; read the ratios."""
