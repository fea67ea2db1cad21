#!/usr/bin/env perl
# Makes an artifact: as large as its features say, with their names and the script in it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Standin::ROM;

my ($media, $id, $library, $drivers, $embed, $version) = @ARGV;
my %wanted = map { $_ => 1 } split ' ', $drivers;
my %all;
open my $file, '<', $library or die "$library: $!\n";
while (<$file>) { $all{$1} = $2 if /^FEATURE (\S+) (\d+)/ }
my %is_driver = map { m{([^/]+)\.c$}; $1 => 1 } glob 'drivers/net/*.c';
for my $driver (keys %wanted) { die "ld: undefined symbol `obj_$driver'\n" unless $all{$driver} }
my @kept = grep { !$is_driver{$_} || $wanted{$_} } sort keys %all;
my $script = '';
if ($embed) { open my $in, '<', $embed or die "$embed: $!\n"; local $/; $script = <$in> }
my $size = length $script;
$size += $all{$_} for @kept;
my $payload = join "\n", "stand-in $media $version", @kept, $script;
$payload .= "\0" x ($size - length $payload) if $size > length $payload;
binmode STDOUT;
my ($vendor, $device) = map { hex || 0 } split /:/, $id =~ /\w:\w/ ? $id : '0:0';
my $blocks = int((length($payload) + 0x100 + 511) / 512);
if ($media =~ /rom$/ && $media ne 'efirom' && $blocks > 255) {
    my $over = $blocks * 512 - 255 * 512;
    die "Add at offset 0x2 overflows 1-byte field ($over bytes too big)\n";
}
print $media eq 'efirom' ? Standin::ROM::efi($vendor, $device, $payload, $blocks)
    : $media =~ /rom$/   ? Standin::ROM::bios($vendor, $device, $payload, $blocks)
    :                      $payload;
