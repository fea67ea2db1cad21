"""The programs that make and flash ROMs. No Django."""
