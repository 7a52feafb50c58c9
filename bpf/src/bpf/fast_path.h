/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What functions write into the maps of their fast paths; sdk/fast-path says what it means, and writes it as it is laid out here. */
#ifndef MIDDLENET_FAST_PATH_H
#define MIDDLENET_FAST_PATH_H

#include "head.h"

/* `fast_action.then` */
#define FAST_NEXT 0
#define FAST_DROP 1
#define FAST_REPLY 2
#define FAST_PORT 3
#define FAST_OUTPUT 4
#define FAST_SLOW 5
#define FAST_KERNEL 6

/* Bits of `fast_action.rewrite`. */
#define FAST_SET_ETHERNET (1 << 0)
#define FAST_SET_SRC (1 << 1)
#define FAST_SET_DST (1 << 2)
#define FAST_SET_SRC_PORT (1 << 3)
#define FAST_SET_DST_PORT (1 << 4)
#define FAST_LOWER_TTL (1 << 5)

#define FAST_NO_CLASS 0xffff

struct fast_action {
	__u8 then;
	__u8 argument; /* the port, or the number of the output */
	__u8 rewrite;
	__u8 reserved;
	__u16 reason; /* of a drop */
	__u16 class;
	__u8 eth_dst[6];
	__u8 eth_src[6];
	__u16 src_port;
	__u16 dst_port;
	__u64 src[2];
	__u64 dst[2];
	__u16 mtu; /* 0: any */
	__u16 reserved2[3];
};

/* `fast_flow.ends` */
#define FAST_ENDS_IGNORED 0
#define FAST_ENDS_TO_SLOW 1
#define FAST_ENDS_TRACKED 2

/* Bits of `fast_flow.seen`. */
#define FAST_FIN 1	/* of this direction */
#define FAST_PEER_FIN 2 /* of the other one */
#define FAST_RST 4	/* of either */

struct fast_flow {
	struct fast_action action;
	__u64 expires_ns; /* by CLOCK_MONOTONIC */
	__u64 idle_ns;	  /* 0: any */
	__u64 last_ns;
	__u64 packets;
	__u64 bytes;
	__u32 generation;
	__u8 ends;
	__u8 seen;
	__u16 reserved;
};

/* Places of `settings`, one for each that writes there; those that follow are of instances, and nothing here. */
#define FAST_OF_FLOWS 0 /* generation and policy: any instance */
#define FAST_OF_RULES 1 /* the rest: the first instance */

struct fast_settings {
	__u32 generation;      /* flows of another one are void */
	__u32 policy;	       /* which one the flows are of: a number of the function's own */
	__u32 first_port_rule; /* the lowest number that a port names, and one; 0: none */
	__u32 ready;	       /* the function has written what it has */
};

struct fast_prefix {
	__u32 bits; /* that count of what follows */
	__u8 version; /* 4 or 6 */
	__u8 zeros[3];
	__u64 address[2];
};

struct fast_service_key {
	__u64 address[2];
	__u16 port;
	__u8 protocol;
	__u8 reserved[5];
};

struct fast_service {
	__u32 first; /* slot */
	__u32 count; /* of slots */
	__u64 idle_ns;
	__u64 closing_ns;
};

struct fast_count {
	__u64 packets;
	__u64 bytes;
};

#endif
