#include <config/general.h>
/* Lines of features and the bytes that each takes: util/link.pl adds them up. */
#ifdef NET_PROTO_IPV4
FEATURE ipv4 9000
#endif
#ifdef NET_PROTO_IPV6
FEATURE ipv6 6000
#endif
#ifdef NET_PROTO_STP
FEATURE stp 300
#endif
#ifdef DOWNLOAD_PROTO_HTTP
FEATURE http 6000
#endif
#ifdef DOWNLOAD_PROTO_HTTPS
FEATURE https 30000
#endif
#ifdef DOWNLOAD_PROTO_TFTP
FEATURE tftp 3000
#endif
#ifdef DOWNLOAD_PROTO_NFS
FEATURE nfs 9000
#endif
#ifdef SANBOOT_CMD
FEATURE sanboot 15000
#endif
#ifdef MENU_CMD
FEATURE menu 2000
#endif
#ifdef IMAGE_TRUST_CMD
FEATURE trust 14000
#endif
#ifdef PING_CMD
FEATURE ping 500
#endif
#ifdef VLAN_CMD
FEATURE vlan 700
#endif
FEATURE banner-BANNER_TIMEOUT 0
