/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the programs of the software split share: the head of a packet as the root program reads it, and maps that outlive a
 * rule set. */
#ifndef MIDDLENET_STEER_H
#define MIDDLENET_STEER_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The key of a flow; `flows.rs` writes it as it is laid out here. Addresses are in network order, IPv4 ones IPv4-mapped;
 * numbers are in the processor's order. */
struct steer_key {
	__u64 src[2];
	__u64 dst[2]; /* of ARP, the address it asks for */
	__u16 src_port;
	__u16 dst_port;
	__u16 vlan;
	__u8 protocol;
	__u8 is_ipv6;
};

/* Bits of `steer_head.has`: which fields the packet has. */
#define STEER_HAS_IP 1 /* addresses and protocol of the key */
#define STEER_HAS_PORTS 2
#define STEER_HAS_ARP_TARGET 4
#define STEER_IS_FRAGMENT 8

/* `Head` in sdk/steer, but for the MAC addresses, which are always at the same place. */
struct steer_head {
	struct steer_key key;
	__u16 ether_type;
	__u16 l4_offset; /* of the bytes behind the IP headers; 0 where there are none to read */
	__u32 has;
};

/* What becomes of packets that a flow names; `flows.rs` writes it. */
struct steer_flow {
	__u64 expires_ns; /* by CLOCK_MONOTONIC */
	__u64 packets;
	__u32 action;
	__u32 reserved;
};

/* An action: a tag in the low 16 bits, or one of these. */
#define STEER_KERNEL 0x10000
#define STEER_DROP 0x20000

/* In front of a packet in its AF_XDP buffer; `meta.rs` reads it. */
struct steer_meta {
	__u16 tag;
	__u16 reserved;
	__u32 magic;
};
#define STEER_MAGIC 0x6e74656dU

/* By processor; `counters.rs` reads them in this order. */
struct steer_counters {
	__u64 redirected;
	__u64 passed;
	__u64 dropped;
	__u64 missing;    /* of those passed: the queue had no socket */
	__u64 untagged;   /* of those redirected: the driver has no room for metadata */
	__u64 by_flow;    /* of all: decided by a flow */
	__u64 short_pkts; /* of those dropped: shorter than an Ethernet header */
	__u64 unruled;    /* of those passed: there was no rule set */
};

struct steer_control {
	__u32 flows; /* not 0: flows are to be looked up */
	__u32 reserved;
};

/* The maps below are made with the root program, and each rule set uses them. */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_head);
} heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_counters);
} counters SEC(".maps");

/* The AF_XDP sockets by receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Few at a time, and refused when there are too many: a new one never pushes out another. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_key);
	__type(value, struct steer_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_control);
} control SEC(".maps");

static __always_inline struct steer_head *the_head(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&heads, &zero);
}

static __always_inline struct steer_counters *the_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

#endif
