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
static __always_inline int begins(const struct found *found, const struct way *way)
{
	return parts & HAS_SERVICES && found->service && !(found->flags & (TCP_FIN | TCP_RST)) && is_onward(way);
}

SEC("xdp")
int fast_path(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, this_hop = hop;
	struct fast_packet *packet = bpf_map_lookup_elem(&packets, &zero);
	struct fast_counters *seen = bpf_map_lookup_elem(&hops, &this_hop);
	const struct fast_action *action;
	struct steer_key before = {};
	struct found found = {};
	struct way way = {};
	__u64 bytes = end - start;
	enum fits fits;

	if (!packet || !seen)
		return XDP_ABORTED;
	way.enters = packet->enters;
	if (way.enters) {
		packet->enters = 0;
		seen->entered += 1;
	}

	action = look_up(&found, &packet->head, start, end);
	if (!action)
		return by_default(ctx, packet, seen, &way, found.reason);
	if (!find_way(&way, packet, action))
		return go_slow(ctx, packet, seen, &way, SLOW_UNFIT);
	if (action->mtu && bytes > (__u64)packet->head.l3_offset + action->mtu)
		return go_slow(ctx, packet, seen, &way, SLOW_MTU);

	if (parts & HAS_FLOWS)
		before = packet->head.key;
	if (begins(&found, &way) && !learn(&found, &before, action, bytes)) {
		seen->no_room += 1;
		return go_slow(ctx, packet, seen, &way, SLOW_ROOM);
	}
	fits = rewrite(&packet->head, action, start, end);
	if (fits != FITS) {
		if (begins(&found, &way))
			unlearn(&before, action);
		return go_slow(ctx, packet, seen, &way, fits == FITS_BUT_TTL ? SLOW_TTL : SLOW_UNFIT);
	}
	if (begins(&found, &way))
		seen->learned += 1;
	if (parts & HAS_FLOWS && found.flow && found.flow->ends == FAST_ENDS_TRACKED && found.flags & (TCP_FIN | TCP_RST))
		note_ends(&found, &before, &packet->head.key);

	seen->hits += 1;
	count(&found, action, bytes);
	return go(ctx, packet, seen, &way, bytes);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
