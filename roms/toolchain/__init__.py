"""Builds and flashes ROMs with external programs. No Django."""
