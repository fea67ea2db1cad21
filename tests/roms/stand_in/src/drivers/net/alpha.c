/* Drives the cards whose ids are those of Intel's PRO/100. */
FEATURE alpha 3000

static struct pci_device_id alpha_nics[] = {
	PCI_ROM ( 0x8086, 0x1209, "alpha9er", "Alpha 9ER", 0 ),
	PCI_ROM ( 0x8086, 0x1229, "alpha100", "Alpha 100", 0 ),
};
