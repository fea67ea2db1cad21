"""What tests of the embedded script share."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from roms.toolchain.ipxe.script.spec import VARIABLES, ScriptSpec, StaticNetwork

SITE = "http://192.0.2.10"
STATIC = StaticNetwork("198.51.100.7", "255.255.255.0", "198.51.100.1", "198.51.100.2")


def specs(sites: Sequence[str] = (SITE, "https://rescue.example.net:8443/x/boot")) -> st.SearchStrategy[ScriptSpec]:
    return st.builds(
        ScriptSpec,
        site=st.sampled_from(sites),
        network=st.just("dhcp") | st.just(STATIC),
        variables=st.lists(st.sampled_from(list(VARIABLES)), unique=True).map(tuple),
        tries=st.integers(1, 10),
        timeout=st.integers(1, 60),
        link_wait=st.integers(1, 60),
        stp_wait=st.integers(0, 60),
        dhcp_wait=st.integers(15, 60),
        nic=st.none() | st.integers(0, 3),
        serial_console=st.booleans(),
    )
