"""The script that a ROM embeds."""
