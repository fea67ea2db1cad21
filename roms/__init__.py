"""ROMs for network cards. For now the script that one embeds: embedded/boot.ipxe."""
