#!/usr/bin/env perl
# Prints make rules for the cards that source files name, in the lines that iPXE's script of this name prints.
use strict;
use warnings;

for my $file (@ARGV) {
    my ($driver) = $file =~ m{([^/]+)\.c$} or next;
    open my $source, '<', $file or die "$file: $!\n";
    my @found = do { local $/; <$source> } =~ /^\s*(PCI|USB)_ROM \( 0x(\w{4}), 0x(\w{4}), "(.*?)", "(.*?)"/mg;
    print "# NIC\t\n# NIC\tfamily\t", $file =~ s/\.c$//r, "\nDRIVERS += $driver\n\n" if @found;
    while (my ($bus, $vendor, $device, $image, $text) = splice @found, 0, 5) {
        for my $name ("$vendor$device", $image) {
            print "# NIC\t$name\t$vendor,$device\t$text\n";
            print "DRIVER_$name = $driver\nROM_TYPE_$name = ", lc $bus, "\n";
            print "${bus}_VENDOR_$name = 0x$vendor\n${bus}_DEVICE_$name = 0x$device\n\n";
        }
    }
}
