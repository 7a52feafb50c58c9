// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * One rule set, attached to an interface: reads the head of each packet and decides what becomes of it, by its flow or by the first rule
 * that matches (`first_match.h`). Another rule set takes its place by an update of the link, so that each packet meets the old one
 * or the new one. What no rule of the set asks for is no part of the program: the constants are known when the kernel verifies it,
 * and it leaves out what they rule out. Packets of chains with fast paths go on to these by a tail call.
 */
#include "first_match.h"
#include "stages.h"
#include "steer.h"

/* The port's number, and its first slot in `xsks`; 0 unless it has fast paths. */
const volatile __u32 port = 0, sockets = 0;
/* One of its chains that have fast paths, and what `fast_entries` says of it. */
const volatile __u32 usual_chain = 0, usual_entry = 0;

/* Not 0: flows are to be looked up. */
volatile __u32 with_flows;

/* In the order in which `rule_set.rs` reads them. */
struct rule_counters {
	__u64 packets; /* but for those missing */
	__u64 bytes;   /* of all */
	__u64 missing; /* passed instead of redirected: the queue had no socket */
	__u64 reserved; /* none lies on two cache lines */
};

/* By rule, the default last. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} actions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct rule_counters));
} rule_counters SEC(".maps");

/* By chain: the first hop with a fast path, if that is where packets of this port begin; 0 if not. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} fast_entries SEC(".maps");

/* Goes on to the fast paths of a chain; comes back if there are none, and the packet is as it was. */
static __always_inline void go_fast(struct xdp_md *ctx, struct steer_head *head, void *start, void *end, __u32 chain)
{
	__u32 zero = 0, entry = usual_entry, *other;
	struct fast_packet *packet;

	if (chain != usual_chain) {
		other = bpf_map_lookup_elem(&fast_entries, &chain);
		entry = other ? *other : 0;
	}
	packet = bpf_map_lookup_elem(&packets, &zero);
	/* Without a mark nobody could take up what fast paths have begun. */
	if (!entry || !packet || packet->unmarked[port / 64 & 3] >> port % 64 & 1)
		return;
	read_icmp_id(head, start, end);
	packet->head = *head;
	packet->sockets = sockets;
	packet->ingress = port;
	packet->egress = NO_PORT;
	packet->reverse = !!(entry & ENTRY_REVERSE);
	packet->enters = 1;
	if (chain == usual_chain)
		JUMP(ctx, (usual_entry & ENTRY_HOP) - 1, "usual");
	else
		bpf_tail_call(ctx, &stages, (entry & ENTRY_HOP) - 1);
}

/* Hands a packet to the AF_XDP socket of its queue, with the tag in front of it; to the kernel if there is none. */
static __always_inline int redirect(struct xdp_md *ctx, __u16 tag)
{
	struct steer_counters *seen;

	switch (hand_over(ctx, sockets + ctx->rx_queue_index, tag, 0)) {
	case NO_SOCKET:
		return XDP_PASS;
	case NO_ROOM:
		seen = the_counters();
		if (seen)
			seen->untagged += 1;
	}
	return XDP_REDIRECT;
}

/* What becomes of a packet by its flow; XDP_ABORTED if it has none. */
static __always_inline int act_by_flow(struct xdp_md *ctx, struct steer_head *head, void *start, void *end)
{
	struct steer_counters *seen;
	struct steer_flow *flow;
	int verdict;

	read_icmp_id(head, start, end);
	flow = bpf_map_lookup_elem(&flows, &head->key);
	if (!flow || flow->expires_ns <= bpf_ktime_get_coarse_ns())
		return XDP_ABORTED;
	seen = the_counters();
	if (!seen)
		return XDP_ABORTED;
	__sync_fetch_and_add(&flow->packets, 1);
	if (flow->action == STEER_DROP) {
		seen->dropped += 1;
		return XDP_DROP;
	}
	if (flow->action >= STEER_KERNEL) {
		seen->passed += 1;
		return XDP_PASS;
	}
	if (parts & WITH_FAST) {
		seen->redirected += 1;
		go_fast(ctx, head, start, end, flow->action);
		seen->redirected -= 1;
	}
	verdict = redirect(ctx, flow->action);
	if (verdict == XDP_REDIRECT)
		seen->redirected += 1;
	else
		seen->missing += 1;
	return verdict;
}

SEC("xdp")
int steer_rules(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 has = parts, look_for_flow, rule, action, *in_table;
	struct rule_counters *of_rule;
	struct steer_head head = {};
	__u64 bytes;
	int verdict;

	if (start + STEER_ETHERNET_BYTES > end) {
		struct steer_counters *seen = the_counters();

		if (seen)
			seen->short_pkts += 1;
		return XDP_DROP;
	}
	look_for_flow = with_flows;
	if (look_for_flow || has & (WITH_FIELDS | WITH_FAST))
		read_head(&head, start, end);
	/* Later fragments do not show which flow they are of, and all of a packet go the same way. */
	if (look_for_flow && head.has & STEER_HAS_IP && !(head.has & STEER_IS_FRAGMENT)) {
		verdict = act_by_flow(ctx, &head, start, end);
		if (verdict != XDP_ABORTED)
			return verdict;
		start = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		if (start + STEER_ETHERNET_BYTES > end)
			return XDP_ABORTED;
	}

	bytes = end - start;
	rule = first_match(&head, start, has);
	of_rule = bpf_map_lookup_elem(&rule_counters, &rule);
	if (!of_rule)
		return XDP_ABORTED;
	if (has & IS_SMALL) {
		action = small_actions[rule % SMALL_ACTIONS];
	} else {
		in_table = bpf_map_lookup_elem(&actions, &rule);
		if (!in_table)
			return XDP_ABORTED;
		action = *in_table;
	}
	of_rule->bytes += bytes;
	if (action >= STEER_KERNEL) {
		of_rule->packets += 1;
		return action == STEER_DROP ? XDP_DROP : XDP_PASS;
	}
	if (has & WITH_FAST) {
		/* It is not counted there. */
		of_rule->packets += 1;
		go_fast(ctx, &head, start, end, action);
		of_rule->packets -= 1;
	}
	verdict = redirect(ctx, action);
	if (verdict == XDP_REDIRECT)
		of_rule->packets += 1;
	else
		of_rule->missing += 1;
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
