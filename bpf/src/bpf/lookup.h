/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How a packet is looked up: among the flows, the services, and then by prefixes and ports, of which the lowest rule decides. */
#ifndef MIDDLENET_LOOKUP_H
#define MIDDLENET_LOOKUP_H

#include "maps.h"
#include "stages.h"

#define ANY_RULE (HAS_SRC_PREFIXES | HAS_DST_PREFIXES | HAS_SRC_PORTS | HAS_DST_PORTS)

#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_SCTP 132

/* Why a packet goes to the slow path; `counters.rs` has the same order. */
enum slow {
	SLOW_MISS,
	SLOW_FRAGMENT,
	SLOW_TTL,
	SLOW_MTU,
	SLOW_UNFIT,
	SLOW_END, /* of what can be done here: there is no fast path where it goes */
	SLOW_ASKED,
	SLOW_ROOM, /* its connection could not be remembered */
	SLOW_REASONS,
};

/* What a packet was found by. */
struct found {
	struct fast_flow *flow;
	struct fast_service *service; /* and a rule */
	__u64 now;
	__u32 generation;
	__u32 rule;	  /* and one; 0: by none */
	enum slow reason; /* of a packet that was not found */
	__u8 flags;	  /* of TCP; read where connections are tracked */
};

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* 0 of packets that are no TCP. */
static __always_inline __u8 tcp_flags(const struct steer_head *head, void *start, void *end)
{
	__u8 *tcp = start + (head->l4_offset & 0x7fff);

	if (head->key.protocol != PROTOCOL_TCP || !(head->has & STEER_HAS_PORTS) || (void *)(tcp + 14) > end)
		return 0;
	return tcp[13];
}

static __always_inline int is_mapped(const __u64 *address)
{
	return !address[0] && (__u32)address[1] == MAPPED;
}

/* Whether a packet has no VLAN tag but that of its key: the others may make it another network's. */
static __always_inline int shows_network(const struct steer_head *head)
{
	return head->l3_offset == STEER_ETHERNET_BYTES + (head->key.vlan ? sizeof(struct vlan) : 0);
}

/* Whether a packet shows of which flow it is: one that has ports has to show them, and no fragment does. */
static __always_inline int shows_flow(const struct steer_head *head)
{
	__u8 protocol = head->key.protocol;

	if (!(head->has & STEER_HAS_IP) || head->has & STEER_IS_FRAGMENT || !shows_network(head))
		return 0;
	return head->has & STEER_HAS_PORTS ||
	       (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP && protocol != PROTOCOL_SCTP);
}

static __always_inline int has_ports(const struct steer_head *head)
{
	return head->has & STEER_HAS_PORTS && !(head->has & STEER_IS_FRAGMENT) &&
	       (head->key.protocol == PROTOCOL_TCP || head->key.protocol == PROTOCOL_UDP);
}

static __always_inline int is_closing(const struct fast_flow *flow)
{
	__u8 seen = flow->seen;

	return seen & FAST_RST || (seen & (FAST_FIN | FAST_PEER_FIN)) == (FAST_FIN | FAST_PEER_FIN);
}

/* Whether a flow counts no more. */
static __always_inline int is_over(const struct fast_flow *flow, const struct found *found)
{
	__u64 now = found->now, idle = flow->idle_ns, last = flow->last_ns;

	if (flow->generation != found->generation || flow->expires_ns <= now)
		return 1;
	/* The clock that is read here is behind the one that functions read. */
	return idle && now > last && now - last > idle;
}

static __always_inline struct fast_action *the_rule(struct found *found, __u32 rule)
{
	struct fast_action *action = bpf_map_lookup_elem(&rules, &rule);

	found->rule = rule + 1;
	found->reason = SLOW_UNFIT;
	return action;
}

static __always_inline struct fast_settings *settings_of(__u32 place)
{
	return bpf_map_lookup_elem(&settings, &place);
}

static __always_inline struct fast_action *by_flow(struct found *found, const struct steer_head *head, void *start, void *end)
{
	struct fast_settings *current = settings_of(FAST_OF_FLOWS);
	struct fast_flow *flow;

	if (!current)
		return 0;
	found->generation = current->generation;
	found->now = bpf_ktime_get_coarse_ns();
	flow = bpf_map_lookup_elem(&flows, &head->key);
	if (!flow || is_over(flow, found))
		return 0;
	if (flow->ends != FAST_ENDS_IGNORED) {
		int begins;

		found->flags = tcp_flags(head, start, end);
		begins = (found->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		if (flow->ends == FAST_ENDS_TO_SLOW && (begins || found->flags & (TCP_FIN | TCP_RST))) {
			found->reason = SLOW_ASKED;
			return 0;
		}
		/* Another connection from the same port. */
		if (begins && is_closing(flow))
			return 0;
	}
	found->flow = flow;
	return &flow->action;
}

/* The finish of MurmurHash3; see sdk/fast-path/src/select.rs. */
static __always_inline __u64 mix(__u64 hash)
{
	hash ^= hash >> 33;
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 33;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	return hash ^ hash >> 33;
}

/* The slot that the source of a packet selects. */
static __always_inline __u32 fast_slot(const struct steer_key *key, __u32 count)
{
	__u64 hash = mix(key->src[0] * 0x9e3779b97f4a7c15ULL ^ key->src[1]);

	hash = mix(hash ^ key->src_port * 0x9e3779b97f4a7c15ULL);
	return (hash >> 32) * count >> 32;
}

static __always_inline struct fast_service *find_service(const __u64 *address, __u16 port, __u8 protocol)
{
	struct fast_service_key key = {.address = {address[0], address[1]}, .port = port, .protocol = protocol};

	return bpf_map_lookup_elem(&services, &key);
}

static __always_inline struct fast_action *by_service(struct found *found, const struct steer_head *head, void *start,
						       void *end)
{
	const struct steer_key *key = &head->key;
	struct fast_service *service = find_service(key->dst, key->dst_port, key->protocol);
	__u32 slot, count, *rule;

	/* A mapped address in a packet of IPv6 is none of IPv4. */
	if (!service || is_mapped(key->dst) == key->is_ipv6)
		return 0;
	count = service->count;
	if (!count) {
		found->reason = SLOW_ASKED;
		return 0;
	}
	slot = service->first + fast_slot(key, count);
	rule = bpf_map_lookup_elem(&slots, &slot);
	if (!rule) {
		found->reason = SLOW_UNFIT;
		return 0;
	}
	found->service = service;
	found->flags = tcp_flags(head, start, end);
	return the_rule(found, *rule);
}

#define NO_RULE 0xffffffff

static __always_inline __u32 by_prefix(void *prefixes, const __u64 *address, __u8 is_ipv6)
{
	struct fast_prefix key = {.bits = 160, .version = is_ipv6 ? 6 : 4, .address = {address[0], address[1]}};
	__u32 *rule = bpf_map_lookup_elem(prefixes, &key);

	return rule ? *rule : NO_RULE;
}

static __always_inline __u32 by_port(void *ports, __u8 protocol, __u16 port)
{
	__u32 number = (protocol == PROTOCOL_UDP) << 16 | port, *rule = bpf_map_lookup_elem(ports, &number);

	/* 0 stands for none. */
	return rule ? *rule - 1 : NO_RULE;
}

static __always_inline void lower(__u32 *number, __u32 other)
{
	if (other < *number)
		*number = other;
}

/* Whether a packet without ports may have some of TCP or UDP all the same: a fragment, the first included, a packet that ends before
 * them, or one with more headers than were read. */
static __always_inline int hides_ports(const struct steer_head *head)
{
	__u8 protocol = head->key.protocol;

	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || is_extension(protocol);
}

/* The rule of a packet that hides its ports. One for which that of a port might have come first decides only if it drops. */
static __always_inline struct fast_action *by_address(struct found *found, const struct steer_head *head, __u32 rule)
{
	struct fast_settings *current = settings_of(FAST_OF_RULES);
	struct fast_action *action = the_rule(found, rule);
	__u32 first = current ? current->first_port_rule : 1;

	if (!action || !first || first > rule || action->then == FAST_DROP)
		return action;
	found->reason = head->has & STEER_IS_FRAGMENT ? SLOW_FRAGMENT : SLOW_MISS;
	return 0;
}

static __always_inline struct fast_action *by_rules(struct found *found, const struct steer_head *head)
{
	const struct steer_key *key = &head->key;
	__u32 rule = NO_RULE;

	if (parts & HAS_SRC_PREFIXES)
		lower(&rule, by_prefix(&src_prefixes, key->src, key->is_ipv6));
	if (parts & HAS_DST_PREFIXES)
		lower(&rule, by_prefix(&dst_prefixes, key->dst, key->is_ipv6));
	if (parts & (HAS_SRC_PORTS | HAS_DST_PORTS) && has_ports(head)) {
		if (parts & HAS_SRC_PORTS)
			lower(&rule, by_port(&src_ports, key->protocol, key->src_port));
		if (parts & HAS_DST_PORTS)
			lower(&rule, by_port(&dst_ports, key->protocol, key->dst_port));
	} else if (parts & (HAS_SRC_PORTS | HAS_DST_PORTS) && rule != NO_RULE && hides_ports(head)) {
		return by_address(found, head, rule);
	}
	return rule == NO_RULE ? 0 : the_rule(found, rule);
}

/* What is to be done with a packet; nothing if it was not found, for a reason then. */
static __always_inline struct fast_action *look_up(struct found *found, const struct steer_head *head, void *start, void *end)
{
	struct fast_action *action;

	found->reason = head->has & STEER_IS_FRAGMENT ? SLOW_FRAGMENT : SLOW_MISS;
	if (parts & HAS_FLOWS && shows_flow(head)) {
		action = by_flow(found, head, start, end);
		if (action || found->reason > SLOW_FRAGMENT)
			return action;
	}
	if (parts & HAS_SERVICES && has_ports(head) && shows_network(head)) {
		action = by_service(found, head, start, end);
		if (action || found->reason > SLOW_FRAGMENT)
			return action;
	}
	if (parts & ANY_RULE && head->has & STEER_HAS_IP)
		return by_rules(found, head);
	return 0;
}

static __always_inline void add(struct fast_count *count, __u64 bytes)
{
	if (!count)
		return;
	count->packets += 1;
	count->bytes += bytes;
}

/* Counts a packet that was found. */
static __always_inline void count(const struct found *found, const struct fast_action *action, __u64 bytes)
{
	if (parts & HAS_FLOWS && found->flow) {
		found->flow->last_ns = found->now;
		__sync_fetch_and_add(&found->flow->packets, 1);
		__sync_fetch_and_add(&found->flow->bytes, bytes);
	} else if (parts & HAS_RULES) {
		__u32 rule = found->rule - 1;

		add(bpf_map_lookup_elem(&rule_counts, &rule), bytes);
	}
	if (parts & HAS_CLASSES && action->class != FAST_NO_CLASS) {
		__u32 class = action->class;

		add(bpf_map_lookup_elem(&classes, &class), bytes);
	}
}

#endif
