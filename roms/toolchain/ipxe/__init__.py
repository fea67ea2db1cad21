"""iPXE: its source, options, cards, scripts and builds."""
