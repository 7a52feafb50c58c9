/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The maps that a function and its fast path share, and how a packet is looked up in them. */
#ifndef MIDDLENET_LOOKUP_H
#define MIDDLENET_LOOKUP_H

#include "fast_path.h"
#include "stages.h"

#define HAS_FLOWS (1 << 0)
#define HAS_SRC_PREFIXES (1 << 1)
#define HAS_DST_PREFIXES (1 << 2)
#define HAS_SRC_PORTS (1 << 3)
#define HAS_DST_PORTS (1 << 4)
#define HAS_RULES (1 << 5)
#define HAS_SERVICES (1 << 6)
#define HAS_CLASSES (1 << 7)

/* Which matchers there are. */
const volatile __u32 parts = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct steer_key);
	__type(value, struct fast_flow);
} flows SEC(".maps");

struct prefixes {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fast_prefix);
	__type(value, __u32);
};

struct prefixes src_prefixes SEC(".maps");
struct prefixes dst_prefixes SEC(".maps");

/* By protocol and port: the number of a rule and one. */
struct port_rules {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 17);
	__type(key, __u32);
	__type(value, __u32);
};

struct port_rules src_ports SEC(".maps");
struct port_rules dst_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_action);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_count);
} rule_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_count);
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct fast_service_key);
	__type(value, struct fast_service);
} services SEC(".maps");

/* The number of a rule. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

/* What a packet was found by. */
struct found {
	struct fast_flow *flow;
	__u32 rule; /* and one; 0: by none */
	__u32 reason; /* for which it goes to the slow path if it was not found */
};

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* 0 of packets that are no TCP. */
static __always_inline __u8 tcp_flags(const struct steer_head *head, void *start, void *end)
{
	__u8 *tcp = start + (head->l4_offset & 0x7fff);

	if (head->key.protocol != 6 || !(head->has & STEER_HAS_PORTS) || (void *)(tcp + 14) > end)
		return 0;
	return tcp[13];
}

/* Whether a packet is of a flow: one that has ports has to show them. */
static __always_inline int has_flow(const struct steer_head *head)
{
	__u8 protocol = head->key.protocol;

	if (!(head->has & STEER_HAS_IP) || head->has & STEER_IS_FRAGMENT)
		return 0;
	return head->has & STEER_HAS_PORTS || (protocol != 6 && protocol != 17 && protocol != 132);
}

static __always_inline int is_closing(const struct fast_flow *flow)
{
	__u8 seen = flow->seen;

	return seen & FAST_RST || (seen & (FAST_FIN | FAST_PEER_FIN)) == (FAST_FIN | FAST_PEER_FIN);
}

static __always_inline int is_over(const struct fast_flow *flow, __u64 now, __u32 generation)
{
	__u64 idle = flow->idle_ns, last = flow->last_ns;

	if (flow->generation != generation || flow->expires_ns <= now)
		return 1;
	/* The clock that is read here is behind the one that functions read. */
	return idle && now > last && now - last > idle;
}

static __always_inline const struct fast_action *by_flow(struct found *found, struct fast_packet *packet, void *start,
							  void *end)
{
	struct fast_settings *current;
	struct fast_flow *flow;
	__u64 now;
	__u32 zero = 0;

	flow = bpf_map_lookup_elem(&flows, &packet->head.key);
	if (!flow)
		return 0;
	current = bpf_map_lookup_elem(&settings, &zero);
	if (!current)
		return 0;
	now = bpf_ktime_get_coarse_ns();
	if (is_over(flow, now, current->generation))
		return 0;
	if (flow->ends == FAST_ENDS_TO_SLOW && tcp_flags(&packet->head, start, end) & (TCP_FIN | TCP_RST))
		return 0;
	flow->last_ns = now;
	found->flow = flow;
	return &flow->action;
}

/* Packets that match nothing have a reason for which they go to the slow path. */
static __always_inline const struct fast_action *look_up(struct found *found, struct fast_packet *packet, void *start,
							  void *end)
{
	const struct fast_action *action;

	found->reason = packet->head.has & STEER_IS_FRAGMENT ? 1 : 0;
	if (parts & HAS_FLOWS && has_flow(&packet->head)) {
		action = by_flow(found, packet, start, end);
		if (action)
			return action;
	}
	return 0;
}

/* Counts a packet that was found. */
static __always_inline void count(const struct found *found, const struct fast_action *action, __u64 bytes)
{
	struct fast_count *counted;

	if (parts & HAS_FLOWS && found->flow) {
		__sync_fetch_and_add(&found->flow->packets, 1);
		__sync_fetch_and_add(&found->flow->bytes, bytes);
	}
	if (parts & HAS_CLASSES && action->class != FAST_NO_CLASS) {
		__u32 class = action->class;

		counted = bpf_map_lookup_elem(&classes, &class);
		if (counted) {
			counted->packets += 1;
			counted->bytes += bytes;
		}
	}
}

#endif
