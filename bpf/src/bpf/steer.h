/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What rule sets share: flows that go before the rules, and maps that outlive a rule set. */
#ifndef MIDDLENET_STEER_H
#define MIDDLENET_STEER_H

#include "hand_over.h"
#include "head.h"

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

/* What rules do not count, by processor; `counters.rs` reads it in this order. */
struct steer_counters {
	__u64 redirected; /* by flow */
	__u64 passed;     /* by flow */
	__u64 dropped;    /* by flow */
	__u64 missing;    /* by flow, and passed: the queue had no socket */
	__u64 untagged;   /* redirected by flow or rule: the driver has no room for metadata */
	__u64 short_pkts; /* dropped: shorter than an Ethernet header */
};

/* The maps below are made with the first rule set, and the next ones use them. */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_counters);
} counters SEC(".maps");

/* Few at a time, and refused when there are too many: a new one never pushes out another. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_key);
	__type(value, struct steer_flow);
} flows SEC(".maps");

static __always_inline struct steer_counters *the_counters(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

#endif
