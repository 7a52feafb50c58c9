/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connections that the fast path remembers by itself, and how it notes their ends. */
#ifndef MIDDLENET_CONNECTIONS_H
#define MIDDLENET_CONNECTIONS_H

#include "lookup.h"

/* How long connections that end are remembered if no service says so. */
#define CLOSING_NS (10ULL * 1000 * 1000 * 1000)

static __always_inline struct steer_key reversed(const struct steer_key *key)
{
	struct steer_key reversed = *key;

	reversed.src[0] = key->dst[0];
	reversed.src[1] = key->dst[1];
	reversed.dst[0] = key->src[0];
	reversed.dst[1] = key->src[1];
	reversed.src_port = key->dst_port;
	reversed.dst_port = key->src_port;
	return reversed;
}

/* The key of a packet that an action has been carried out on. */
static __always_inline struct steer_key rewritten(const struct steer_key *key, const struct fast_action *action)
{
	struct steer_key after = *key;

	if (action->rewrite & FAST_SET_SRC) {
		after.src[0] = action->src[0];
		after.src[1] = action->src[1];
	}
	if (action->rewrite & FAST_SET_DST) {
		after.dst[0] = action->dst[0];
		after.dst[1] = action->dst[1];
	}
	if (action->rewrite & FAST_SET_SRC_PORT)
		after.src_port = action->src_port;
	if (action->rewrite & FAST_SET_DST_PORT)
		after.dst_port = action->dst_port;
	return after;
}

/* Makes of a flow the one by which answers come back, as if nothing had been written. */
static __always_inline void turn(struct fast_flow *flow, const struct steer_key *key)
{
	struct fast_action *action = &flow->action;
	__u8 rewrite = action->rewrite, back = rewrite & FAST_LOWER_TTL;

	if (rewrite & FAST_SET_SRC)
		back |= FAST_SET_DST;
	if (rewrite & FAST_SET_DST)
		back |= FAST_SET_SRC;
	if (rewrite & FAST_SET_SRC_PORT)
		back |= FAST_SET_DST_PORT;
	if (rewrite & FAST_SET_DST_PORT)
		back |= FAST_SET_SRC_PORT;
	action->rewrite = back;
	action->src[0] = key->dst[0];
	action->src[1] = key->dst[1];
	action->dst[0] = key->src[0];
	action->dst[1] = key->src[1];
	action->src_port = key->dst_port;
	action->dst_port = key->src_port;
	/* Who is answered at the port that the request came by is so in both directions. */
	action->then = action->then == FAST_REPLY ? FAST_REPLY : FAST_NEXT;
	action->mtu = 0;
	flow->packets = flow->bytes = 0;
}

/* Whether the place of a flow is taken by one that writes something else. */
static __always_inline int is_taken(const struct steer_key *at, const struct steer_key *key, const struct found *found)
{
	struct fast_flow *flow = bpf_map_lookup_elem(&flows, at);

	if (!flow || is_over(flow, found) || is_closing(flow))
		return 0;
	return flow->action.src[0] != key->dst[0] || flow->action.src[1] != key->dst[1] ||
	       flow->action.src_port != key->dst_port;
}

/* Remembers the connection of a packet that has begun one to a service, in both directions; 0 if that is not possible. */
static __always_inline int learn(const struct found *found, const struct steer_key *key, const struct fast_action *action,
				 __u64 bytes)
{
	struct steer_key after = rewritten(key, action), back = reversed(&after);
	struct fast_flow flow;

	if (is_taken(&back, key, found))
		return 0;
	flow = (struct fast_flow){
		.action = *action,
		.expires_ns = ~0ULL,
		.idle_ns = found->service->idle_ns,
		.last_ns = found->now,
		.packets = 1,
		.bytes = bytes,
		.generation = found->generation,
		.ends = key->protocol == PROTOCOL_TCP ? FAST_ENDS_TRACKED : FAST_ENDS_IGNORED,
	};
	if (bpf_map_update_elem(&flows, key, &flow, BPF_ANY) != 0)
		return 0;
	turn(&flow, key);
	if (bpf_map_update_elem(&flows, &back, &flow, BPF_ANY) == 0)
		return 1;
	bpf_map_delete_elem(&flows, key);
	return 0;
}

static __always_inline void end(struct fast_flow *flow, __u32 seen, __u64 closing_ns)
{
	/* 0 would be for ever. */
	closing_ns += !closing_ns;
	/* The other direction may be on another processor: `ends`, `seen` and what follows are changed as one word. */
	__sync_fetch_and_or((__u32 *)&flow->ends, seen << 8);
	if (is_closing(flow) && (!flow->idle_ns || flow->idle_ns > closing_ns))
		flow->idle_ns = closing_ns;
}

/* Notes FIN and RST of a packet in both directions of its connection; `before` is its key before it was written into. */
static __always_inline void note_ends(const struct found *found, const struct steer_key *before, const struct steer_key *after)
{
	struct steer_key back = reversed(after);
	struct fast_service *service = 0;
	__u64 closing_ns = CLOSING_NS;
	struct fast_flow *other;
	__u32 seen = 0, peer = 0;

	if (found->flags & TCP_FIN) {
		seen = FAST_FIN;
		peer = FAST_PEER_FIN;
	}
	if (found->flags & TCP_RST) {
		seen |= FAST_RST;
		peer |= FAST_RST;
	}
	if (parts & HAS_SERVICES) {
		service = find_service(before->dst, before->dst_port, before->protocol);
		if (!service)
			service = find_service(after->src, after->src_port, after->protocol);
		if (service)
			closing_ns = service->closing_ns;
	}
	end(found->flow, seen, closing_ns);
	other = bpf_map_lookup_elem(&flows, &back);
	if (other && other->ends == FAST_ENDS_TRACKED)
		end(other, peer, closing_ns);
}

#endif
