#!/usr/bin/env perl
# Joins option ROMs: none but the last keeps its mark of being the last.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Standin::ROM;

binmode STDOUT;
while (defined(my $name = shift)) {
    open my $file, '<:raw', $name or die "$name: $!\n";
    my $rom = do { local $/; <$file> };
    if (@ARGV) {
        my $pcir = unpack 'v', substr $rom, 0x18, 2;
        substr($rom, $pcir + 0x15, 1) = "\0";
        $rom = Standin::ROM::fix($rom, 6);
    }
    print $rom;
}
