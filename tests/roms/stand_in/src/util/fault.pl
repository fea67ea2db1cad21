#!/usr/bin/env perl
# Does to an object what its fault says.
use strict;
use warnings;

open my $file, '<', $ARGV[0] or die "$ARGV[0]: $!\n";
my $text = do { local $/; <$file> };
print "account $> environment ", join(',', sort keys %ENV), "\n" if $text =~ /^TELL/m;
die "$ARGV[0]: No space left on device\n" if $text =~ /^DISK_FULL/m;
sleep 3600 if $text =~ /^HANG/m;
