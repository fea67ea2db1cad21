/* Drives an older family. */
FEATURE gamma 5000

static struct pci_device_id gamma_nics[] = {
	PCI_ROM ( 0x10b7, 0x9004, "gamma900b", "Gamma 900B", 0 ),
};

USB_ROM ( 0x0b95, 0x7720, "gammausb", "Gamma on USB", 0 ),
