/* Drives Realtek's, and one that gamma claims too. */
FEATURE beta 4000

static struct pci_device_id beta_nics[] = {
	PCI_ROM ( 0x10ec, 0x8139, "beta8139", "Beta 8139", 0 ),
	PCI_ROM ( 0x10b7, 0x9004, "beta900b", "Beta 900B", 0 ),
};
