#ifndef CONFIG_GENERAL_H
#define CONFIG_GENERAL_H

/** @file
 *
 * General options of the stand-in
 *
 */

#include <config/defaults.h>

/*****************************************************************************
 *
 * Protocols
 *
 */

#define NET_PROTO_IPV4		/* Internet protocol, version 4 */
#define NET_PROTO_IPV6		/* Internet protocol, version 6 */
#define NET_PROTO_STP		/* Spanning tree */
#define DOWNLOAD_PROTO_HTTP	/* Downloads by HTTP */
#define DOWNLOAD_PROTO_HTTPS	/* Downloads by HTTP, encrypted */
#define DOWNLOAD_PROTO_TFTP	/* Downloads by TFTP */
//#define DOWNLOAD_PROTO_NFS	/* Downloads by NFS */

/* Not in builds for a BIOS */
#if defined ( PLATFORM_pcbios )
  #undef NET_PROTO_IPV6
  #undef DOWNLOAD_PROTO_HTTPS
#endif

/*****************************************************************************
 *
 * Commands
 *
 */

#define DHCP_CMD		/* dhcp */
#define IFMGMT_CMD		/* ifopen and its like */
#define IMAGE_CMD		/* chain, kernel, initrd and their like */
#define MENU_CMD		/* menu */
#define NVO_CMD			/* set and its like */
#define SANBOOT_CMD		/* sanboot */
//#define IMAGE_TRUST_CMD	/* imgtrust, imgverify */
//#define PING_CMD		/* ping */
#define SHELL_CMD		/* shell */
#define VLAN_CMD		/* vcreate, vdestroy */

#if ! defined ( FDT_NULL )
  #define FDT_CMD		/* fdt */
#endif

#if defined ( PLATFORM_pcbios )
  #undef VLAN_CMD
#endif

/*****************************************************************************
 *
 * Images
 *
 */

#define IMAGE_SCRIPT		/* Scripts */

#if defined ( PLATFORM_pcbios )
  #define IMAGE_BZIMAGE		/* Linux kernels for a BIOS */
  //#define IMAGE_NBI		/* An old format */
#endif
#if defined ( PLATFORM_efi )
  #define IMAGE_EFI		/* EFI programs */
#endif

/*****************************************************************************
 *
 * Waiting for a key
 *
 * In tenths of a second.
 */

#define BANNER_TIMEOUT		20
#define ROM_BANNER_TIMEOUT	( 2 * BANNER_TIMEOUT )

#define LONG_COMMENT		/* A comment that goes
				 * on in a second line
				 */

#include <config/named.h>
#include NAMED_CONFIG(general.h)
#include <config/local/general.h>

#endif /* CONFIG_GENERAL_H */
