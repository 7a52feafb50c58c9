/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where packets go from a hop: what `Graph` in nf-manager/src/graph.rs works out for those that functions return. */
#ifndef MIDDLENET_WAY_H
#define MIDDLENET_WAY_H

#include "hand_over.h"
#include "lookup.h"
#include "rewrite.h"
#include "stages.h"

/* A target: its kind in the high half, and the number of a hop or port. */
#define TARGET_HOP 0
#define TARGET_PORT 1
#define TARGET_EGRESS 2 /* the end of the chain that the packet is heading for */
#define TARGET_DROP 3
/* Of a packet that goes no further. */
#define TARGET_REASON 4 /* dropped under this reason of the function */
#define TARGET_SLOW 5
#define TARGET_KERNEL 6
#define TARGET_ROUTE 7 /* by the kernel's tables */
#define TARGET_NONE 8  /* there is none */

#define OUTPUTS 256

/* The hop, and where packets go from it. */
const volatile __u32 hop = 0;
const volatile __u32 next_forward = 0, next_reverse = 0;
const volatile __u32 outputs[OUTPUTS];
const volatile __u32 output_count = 0;
/* The ports of the chain: on the left, on the right (how many, and which if there is one), and all of them by bit. */
const volatile __u32 left = 0, right_count = 0, right = 0;
const volatile __u64 chain_ports[4];
/* Misses go to the kernel. */
const volatile __u32 misses_to_kernel = 0;
/* Packets leave by the kernel's tables. */
const volatile __u32 ends_by_kernel = 0;

/* Why packets go to the kernel; `counters.rs` has the same order. */
enum kernel {
	KERNEL_MISS,
	KERNEL_ASKED,
	KERNEL_NO_NEIGHBOUR,
	KERNEL_NOT_FORWARDED,
	KERNEL_NO_SOCKET, /* instead of the slow path */
	KERNEL_TTL,	  /* from here on: of packets that this hop would do with what it cannot, as with the slow path */
	KERNEL_MTU,
	KERNEL_UNFIT,
	KERNEL_ROOM,
	KERNEL_REASONS,
};

#define DROP_REASONS 64

/* By hop and processor; `counters.rs` reads it. */
struct fast_counters {
	__u64 entered;
	__u64 hits;
	__u64 sent;
	__u64 learned;
	__u64 no_room;
	__u64 discarded; /* dropped, as the manifest says */
	__u64 no_socket; /* dropped: the queue had no socket, and fast paths have dealt with the packet */
	__u64 untagged;	 /* dropped likewise: the driver has no room for a tag */
	__u64 slow[SLOW_REASONS];
	__u64 kernel[KERNEL_REASONS];
	__u64 dropped[DROP_REASONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_counters);
} hops SEC(".maps");

struct port {
	__u32 ifindex;
	__u32 most_bytes; /* of a packet with its Ethernet header that can go out directly; 0: none can */
	__u16 mac[3];
	__u8 source_check; /* of what came by it, as `rp_filter` has it */
	__u8 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

/* By port. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* Ports by the kernel's index. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} interfaces SEC(".maps");

struct ethernet {
	__u16 dst[3];
	__u16 src[3];
	__be16 type;
};

#define FAMILY_IPV4 2
#define FAMILY_IPV6 10

/* One packet on its way through this program. */
struct run {
	struct xdp_md *ctx;
	struct fast_packet *packet;
	struct fast_counters *seen;
	__u64 bytes;
	__u16 tag;	  /* of a packet that goes to the socket of its queue, */
	enum slow reason; /* and why it does */
	__u8 is_first;	  /* no fast path has dealt with it before */
};

/* Beside XDP_ABORTED and so on. */
#define TO_SOCKET 100

/* Tags: see `Destination` in nf-manager/plan. */
#define TAG_HOP (1 << 14)
#define TAG_PORT (1 << 15)

/* The slow path of this hop. */
static __always_inline int slow(struct run *run, enum slow reason)
{
	run->tag = TAG_HOP | hop;
	run->reason = reason;
	return TO_SOCKET;
}

/* What this hop has dealt with, and there is no fast path where it goes. */
static __always_inline int no_further(struct run *run, __u16 tag)
{
	run->is_first = 0;
	run->tag = tag;
	run->reason = SLOW_END;
	return TO_SOCKET;
}

static __always_inline int to_kernel(struct run *run, enum kernel reason)
{
	run->seen->kernel[reason] += 1;
	return XDP_PASS;
}

static __always_inline int to_socket(struct run *run)
{
	struct fast_packet *packet = run->packet;
	__u16 way = (packet->egress + 1) & 0xff;

	if (packet->reverse)
		way |= STEER_WAY_REVERSE;
	switch (hand_over(run->ctx, packet->sockets + run->ctx->rx_queue_index, run->tag, way)) {
	case NO_SOCKET:
		if (run->is_first)
			return to_kernel(run, KERNEL_NO_SOCKET);
		run->seen->no_socket += 1;
		return XDP_DROP;
	case NO_ROOM:
		/* Without a tag the packet enters its chain anew. */
		if (run->is_first)
			break;
		/* From here on, packets of its port go to the workers at once; see `go_fast`. But what offloads has nobody else to do it. */
		if (!misses_to_kernel)
			packet->unmarked[packet->ingress / 64 & 3] |= 1ULL << packet->ingress % 64;
		run->seen->untagged += 1;
		return XDP_DROP;
	}
	run->seen->slow[run->reason & 7] += 1;
	return XDP_REDIRECT;
}

/* Whether the function has written what it has: until then, that no rule matches says nothing. */
static __always_inline int is_ready(void)
{
	struct fast_settings *current = settings_of(FAST_OF_RULES);

	return current && current->ready;
}

/* What becomes of packets that no rule matches, or whose rule cannot be followed. In mode offloading, the slow path of all that was not
 * asked for by a rule is the kernel's own stack, which gets the packet as it came here, and answers for it where an answer is due. Before
 * there are rules, it gets nothing that they could be about. */
static __always_inline int not_dealt_with(struct run *run, enum slow reason)
{
	if (!misses_to_kernel || reason == SLOW_ASKED)
		return slow(run, reason);
	switch (reason) {
	case SLOW_TTL:
		return to_kernel(run, KERNEL_TTL);
	case SLOW_MTU:
		return to_kernel(run, KERNEL_MTU);
	case SLOW_UNFIT:
		return to_kernel(run, KERNEL_UNFIT);
	case SLOW_ROOM:
		return to_kernel(run, KERNEL_ROOM);
	default:
		if (run->packet->head.has & STEER_HAS_IP && !is_ready())
			return slow(run, reason);
		return to_kernel(run, KERNEL_MISS);
	}
}

static __always_inline int has_port(__u32 port)
{
	return port < 256 && chain_ports[port / 64] >> port % 64 & 1;
}

/* The end of the chain that a packet is heading for. */
static __always_inline __u32 end_of_chain(__u8 egress, __u8 reverse)
{
	if (egress != NO_PORT)
		return TARGET_PORT << 16 | egress;
	if (ends_by_kernel)
		return TARGET_ROUTE << 16;
	if (reverse || !right_count)
		return TARGET_PORT << 16 | left;
	/* Who leaves on the right of many has to say by which. */
	return right_count == 1 ? TARGET_PORT << 16 | right : TARGET_NONE << 16;
}

/* Works out where an action sends a packet; 0 if that is nowhere. It is kept in `packets`, of which the kernel's verifier remembers
 * nothing: else it would follow what comes next once for each target. */
static __always_inline int find_way(struct fast_packet *packet, const struct fast_action *action)
{
	__u32 argument = action->argument, target;
	__u8 egress = packet->egress, reverse = packet->reverse;

	switch (action->then) {
	case FAST_REPLY:
		argument = packet->ingress;
		/* fall through */
	case FAST_PORT:
		if (!has_port(argument))
			return 0;
		/* A chain of one port has both its ends there; its packets run forward only. */
		reverse = argument == left && right_count;
		egress = argument;
		/* fall through */
	case FAST_NEXT:
		target = reverse ? next_reverse : next_forward;
		break;
	case FAST_OUTPUT:
		if (argument >= output_count)
			return 0;
		target = outputs[argument & (OUTPUTS - 1)];
		break;
	case FAST_DROP:
		if (action->reason >= DROP_REASONS)
			return 0;
		target = TARGET_REASON << 16 | action->reason;
		break;
	case FAST_SLOW:
		target = TARGET_SLOW << 16;
		break;
	case FAST_KERNEL:
		target = (misses_to_kernel ? TARGET_KERNEL : TARGET_SLOW) << 16;
		break;
	default:
		return 0;
	}
	if (target >> 16 == TARGET_EGRESS)
		target = end_of_chain(egress, reverse);
	packet->target = target;
	packet->next_egress = egress;
	packet->next_reverse = reverse;
	return target >> 16 != TARGET_NONE;
}

/* Whether a packet goes on: to a hop or out of the chain. */
static __always_inline int goes_on(const struct fast_packet *packet)
{
	__u32 kind = packet->target >> 16;

	return kind == TARGET_HOP || kind == TARGET_PORT || kind == TARGET_ROUTE;
}

static __always_inline int transmit(struct run *run, __u32 number)
{
	struct port *port = bpf_map_lookup_elem(&ports, &number);

	if (!port || run->bytes > port->most_bytes ||
	    bpf_redirect_map(&devices, number, XDP_ABORTED) != XDP_REDIRECT)
		return no_further(run, TAG_PORT | number);
	run->seen->sent += 1;
	return XDP_REDIRECT;
}

/* Whether a packet is addressed to the port that it came by. Ports are promiscuous; the kernel forwards nothing else. */
static __always_inline int is_for_port(const struct ethernet *ethernet, const struct port *port)
{
	return ethernet->dst[0] == port->mac[0] && ethernet->dst[1] == port->mac[1] && ethernet->dst[2] == port->mac[2];
}

static __always_inline int is_zero(const __u8 *mac)
{
	return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

#define SOURCE_CHECK_STRICT 1

/* Whether answers to a packet of IPv4 would go where it came from, as far as the kernel asks for that. `way` is the packet's. */
static __always_inline int comes_rightly(struct xdp_md *ctx, const struct ipv4 *ip, const struct bpf_fib_lookup *way, __u8 check)
{
	struct bpf_fib_lookup back = {.family = FAMILY_IPV4, .ifindex = way->ifindex};
	long found;

	/* That of `way` is the metric of its route by now. */
	back.tos = ip->service;
	back.ipv4_src = ip->dst;
	back.ipv4_dst = ip->src;
	found = bpf_fib_lookup(ctx, &back, sizeof(back), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	return check != SOURCE_CHECK_STRICT || back.ifindex == ctx->ingress_ifindex;
}

/* Sources that no router forwards: of this network (0/8), loopback, multicast and reserved. */
static __always_inline int is_martian(const struct ipv4 *ip)
{
	__u8 first = bpf_ntohl(ip->src) >> 24;

	return !first || first == 127 || first >= 224;
}

static __always_inline int is_link_local(const __u32 *address)
{
	return (address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* The same of IPv6: what has no address of a site or the Internet. */
static __always_inline int is_martian6(const struct ipv6 *ip)
{
	return !ip->src[0] || bpf_ntohl(ip->src[0]) >> 24 == 0xff || is_link_local(ip->src) || is_link_local(ip->dst);
}

/* Packets leave as the kernel would forward them; what takes more than that, it does itself. */
static __always_inline int route(struct run *run)
{
	struct xdp_md *ctx = run->ctx;
	struct fast_packet *packet = run->packet;
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = start;
	struct ipv4 *v4 = (void *)(ethernet + 1);
	struct ipv6 *v6 = (void *)(ethernet + 1);
	struct bpf_fib_lookup way = {.ifindex = ctx->ingress_ifindex, .l4_protocol = packet->head.key.protocol};
	__u32 index = packet->ingress, *number;
	struct port *port = bpf_map_lookup_elem(&ports, &index);
	__u16 before;
	long found;

	if (!port || !(packet->head.has & STEER_HAS_IP) || packet->head.l3_offset != sizeof(*ethernet))
		goto pass;
	if ((void *)(ethernet + 1) > end || !is_for_port(ethernet, port))
		goto pass;
	if (packet->head.has & STEER_HAS_PORTS) {
		way.sport = bpf_htons(packet->head.key.src_port);
		way.dport = bpf_htons(packet->head.key.dst_port);
	}
	if (packet->head.key.is_ipv6) {
		/* Options for each hop (protocol 0) are the kernel's to read. */
		if ((void *)(v6 + 1) > end || v6->hops <= 1 || !v6->next || is_martian6(v6))
			goto pass;
		way.family = FAMILY_IPV6;
		way.flowinfo = *(__be32 *)v6 & bpf_htonl(0x0fffffff);
		way.tot_len = bpf_ntohs(*(__be16 *)&v6->rest[3]) + sizeof(*v6);
		__builtin_memcpy(way.ipv6_src, v6->src, sizeof(v6->src));
		__builtin_memcpy(way.ipv6_dst, v6->dst, sizeof(v6->dst));
	} else {
		/* So are options of IPv4. */
		if ((void *)(v4 + 1) > end || v4->ttl <= 1 || has_options(v4) || is_martian(v4))
			goto pass;
		way.family = FAMILY_IPV4;
		way.tos = v4->service;
		way.tot_len = bpf_ntohs(v4->length);
		way.ipv4_src = v4->src;
		way.ipv4_dst = v4->dst;
	}
	found = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return to_kernel(run, KERNEL_NO_NEIGHBOUR);
	/* Kernels before 6.3 also find neighbours that have not answered yet. */
	if (found != BPF_FIB_LKUP_RET_SUCCESS || is_zero(way.dmac))
		goto pass;
	index = way.ifindex;
	number = bpf_map_lookup_elem(&interfaces, &index);
	/* Ports of other chains and domains are for the kernel to send by. */
	if (!number || !has_port(*number) || bpf_redirect_map(&devices, *number, XDP_ABORTED) != XDP_REDIRECT)
		goto pass;
	if (!packet->head.key.is_ipv6 && port->source_check && !comes_rightly(ctx, v4, &way, port->source_check))
		goto pass;
	if (packet->head.key.is_ipv6) {
		v6->hops -= 1;
	} else {
		before = *(__u16 *)&v4->ttl;
		v4->ttl -= 1;
		v4->checksum = patched(v4->checksum, changed16(before, *(__u16 *)&v4->ttl));
	}
	__builtin_memcpy(ethernet->dst, way.dmac, sizeof(way.dmac));
	__builtin_memcpy(ethernet->src, way.smac, sizeof(way.smac));
	run->seen->sent += 1;
	return XDP_REDIRECT;
pass:
	return to_kernel(run, KERNEL_NOT_FORWARDED);
}

/* Sends a packet where it goes. */
static __always_inline int go(struct run *run)
{
	struct fast_packet *packet = run->packet;
	__u32 number = packet->target & 0xffff;

	switch (packet->target >> 16) {
	case TARGET_SLOW:
		return slow(run, SLOW_ASKED);
	case TARGET_KERNEL:
		return to_kernel(run, KERNEL_ASKED);
	case TARGET_REASON:
		run->seen->dropped[number & (DROP_REASONS - 1)] += 1;
		return XDP_DROP;
	case TARGET_DROP:
		run->seen->discarded += 1;
		return XDP_DROP;
	}
	packet->egress = packet->next_egress;
	packet->reverse = packet->next_reverse;
	switch (packet->target >> 16) {
	case TARGET_ROUTE:
		return route(run);
	case TARGET_PORT:
		return transmit(run, number);
	}
	if (packet->target == next_forward)
		JUMP(run->ctx, next_forward, "forward");
	else if (packet->target == next_reverse)
		JUMP(run->ctx, next_reverse, "reverse");
	else
		bpf_tail_call(run->ctx, &stages, number);
	return no_further(run, TAG_HOP | number);
}

#endif
