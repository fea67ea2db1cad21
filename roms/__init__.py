"""ROMs for network cards: made, flashed, and known where they are."""
