"""iPXE: its source, options and cards, and what is built of them."""
