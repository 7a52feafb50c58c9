// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The fast path of a hop, which all ports of its chain share. A packet comes by a tail call, from the rules of its port
 * (`go_fast` in steer_rules.bpf.c) or from the fast path before it, with its head in `packets`. It is looked up (`lookup.h`), its
 * connection is remembered (`connections.h`), it is written into (`rewrite.h`), and goes on (`way.h`): to the next hop, by a port, to
 * the kernel, or to the slow path, which is the function itself, beyond the AF_XDP socket of the packet's queue. What the function has
 * no matchers for is no part of the program: the constants are known when the kernel verifies it.
 */
#include "connections.h"
#include "lookup.h"
#include "rewrite.h"
#include "way.h"

/* Whether a packet begins a connection that is to be remembered. */
static __always_inline int begins(const struct found *found, const struct fast_packet *packet)
{
	return parts & HAS_SERVICES && found->service && !(found->flags & (TCP_FIN | TCP_RST)) && goes_on(packet);
}

static __always_inline int ends(const struct found *found)
{
	return parts & HAS_FLOWS && found->flow && found->flow->ends == FAST_ENDS_TRACKED &&
	       found->flags & (TCP_FIN | TCP_RST);
}

static __always_inline int deal_with(struct run *run, void *start, void *end)
{
	struct fast_packet *packet = run->packet;
	const struct fast_action *action;
	struct steer_key before = {};
	struct found found = {};

	action = look_up(&found, &packet->head, start, end);
	if (!action)
		return not_dealt_with(run, found.reason);
	if (!find_way(packet, action))
		return not_dealt_with(run, SLOW_UNFIT);
	if (action->mtu && run->bytes > (__u64)packet->head.l3_offset + action->mtu)
		return not_dealt_with(run, SLOW_MTU);

	/* What it was is asked for where connections begin or end. */
	if (parts & HAS_FLOWS && (found.service || found.flags))
		before = packet->head.key;
	if (begins(&found, packet)) {
		if (!learn(&found, &before, action, run->bytes)) {
			run->seen->no_room += 1;
			return not_dealt_with(run, SLOW_ROOM);
		}
		run->seen->learned += 1;
	}
	switch (rewrite(&packet->head, action, start, end)) {
	case FITS:
		break;
	case FITS_NOT:
		return not_dealt_with(run, SLOW_UNFIT);
	case FITS_BUT_TTL:
		return not_dealt_with(run, SLOW_TTL);
	}
	if (ends(&found))
		note_ends(&found, &before, &packet->head.key);

	run->seen->hits += 1;
	count(&found, action, run->bytes);
	return go(run);
}

SEC("xdp")
int fast_path(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, this_hop = hop;
	struct run run = {
		.ctx = ctx,
		.packet = bpf_map_lookup_elem(&packets, &zero),
		.seen = bpf_map_lookup_elem(&hops, &this_hop),
		.bytes = end - start,
	};
	int verdict;

	if (!run.packet || !run.seen)
		return XDP_ABORTED;
	if (run.packet->enters) {
		run.packet->enters = 0;
		run.is_first = 1;
		run.seen->entered += 1;
	}
	verdict = deal_with(&run, start, end);
	return verdict == TO_SOCKET ? to_socket(&run) : verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
