package Standin::ROM;
# Writes option ROMs: valid ones, with nothing in them to run.
use strict;
use warnings;

sub sum { my $total = 0; $total += $_ for unpack 'C*', shift; return $total & 0xff }

# Makes the bytes add up to zero.
sub fix {
    my ($image, $at) = @_;
    substr($image, $at, 1) = "\0";
    substr($image, $at, 1) = chr(-sum($image) & 0xff);
    return $image;
}

sub pcir {
    my ($vendor, $device, $blocks, $type) = @_;
    return pack 'a4 v4 C C3 v2 C2 v3', 'PCIR', $vendor, $device, 0, 0x1c, 3, 0, 0, 2, $blocks, 0, $type, 0x80, 0, 0, 0;
}

sub bios {
    my ($vendor, $device, $payload, $blocks) = @_;
    my $ipxe = fix(pack('a4 C2 v V', 'iPXE', 12, 0, 0, unpack('%32V*', $payload . "\0\0\0")), 5);
    my $texts = "Stand-in\0Stand-in ROM\0";
    my $pnp = fix(pack('a4 C C v C C V v v C3 x11', '$PnP', 1, 2, 0, 0, 0, 0, 0x90, 0x99, 2, 0, 0), 9);
    my $head = pack 'C3 C3 C x9 v x6 v v', 0x55, 0xaa, $blocks, 0xeb, 0, 0, 0, 0x40, 0x20 + 0x30, 0x70;
    $head .= "\0" x (0x40 - length $head) . $ipxe . "\0" x 4 . pcir($vendor, $device, $blocks, 0);
    $head .= "\0" x (0x70 - length $head) . $pnp . "\0" x (0x90 - 0x70 - length $pnp) . $texts;
    my $image = $head . $payload;
    return fix($image . "\0" x ($blocks * 512 - length $image), 6);
}

sub efi {
    my ($vendor, $device, $payload, $blocks) = @_;
    my $head = pack 'C2 v V v v v x8 v v', 0x55, 0xaa, $blocks, 0x0ef1, 0x0b, 0x8664, 1, 0x40, 0x1c;
    $head .= "\0\0" . pcir($vendor, $device, $blocks, 3);
    my $image = $head . "\0" x (0x40 - length $head) . $payload;
    $image .= "\0" x ($blocks * 512 - length $image);
    return fix($image, length($image) - 1);
}

1;
