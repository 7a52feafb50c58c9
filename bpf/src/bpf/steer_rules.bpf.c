// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * One rule set: decides what becomes of a packet whose head the root program has read. The tables are those of `Tables` in
 * sdk/steer/src/tables.rs, which says how they work; each rule set has its own, of the size it needs. What no rule of the
 * set asks for is no part of the program: the constants below are known when the kernel verifies it, and it leaves out
 * what they rule out.
 */
#include "steer.h"

/* Words of a vector; a summary goes before them. */
const volatile __u32 words = 1;
/* How many rules; the number after the last stands for the default. */
const volatile __u32 rules = 0;

/* Whether a bit of a vector is another rule than that of its number. */
const volatile __u8 with_order = 1;
/* Whether a field is asked for by any rule. */
const volatile __u8 with_kinds = 1;
const volatile __u8 with_vlans = 1;
const volatile __u8 with_src_macs = 1;
const volatile __u8 with_dst_macs = 1;
const volatile __u8 with_src = 1;
const volatile __u8 with_dst = 1;
const volatile __u8 with_src_ports = 1;
const volatile __u8 with_dst_ports = 1;

/* The classes of packets that lack a field, and where the tries begin. */
const volatile __u32 src_none = 0, src_v4 = 0, src_v6 = 0;
const volatile __u32 dst_none = 0, dst_v4 = 0, dst_v6 = 0, dst_arp = 0;
const volatile __u32 src_port_none = 0, dst_port_none = 0;
const volatile __u32 src_mac_none = 0, src_mac_shift = 0;
const volatile __u32 dst_mac_none = 0, dst_mac_shift = 0;
const volatile __u64 src_mac_factor = 0, dst_mac_factor = 0;

#define MOST_WORDS 64
#define ALL (~0ULL)

/* Entries of tries. */
#define ENTRY_NODE (1U << 31)
#define ENTRY_CHAIN (1U << 30)
#define ENTRY_BYTE_SHIFT 26
#define ENTRY_NUMBER ((1U << ENTRY_BYTE_SHIFT) - 1)
/* An IPv6 address has 16 bytes, each node but the last takes one at least. */
#define MOST_STEPS 17

struct chain {
	__u64 value[2];
	__u64 mask[2];
	__u32 hit;
	__u32 miss;
};

struct block {
	__u32 entries[256];
};

struct bucket {
	__u64 slots[4];
};

struct kinds {
	__u16 ip[1 << 10];
	__u16 others[1 << 16];
};

struct vlans {
	__u16 ids[1 << 12];
};

struct ports {
	__u16 numbers[1 << 16];
};

struct rule_counters {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 2 * sizeof(__u64));
} vectors SEC(".maps");

/* The rule of each bit of a vector. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} order SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct kinds));
} kinds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct vlans));
} vlans SEC(".maps");

struct mac_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bucket));
};

struct mac_table src_macs SEC(".maps");
struct mac_table dst_macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct block));
} blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct chain));
} chains SEC(".maps");

struct port_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct ports));
};

struct port_table src_ports SEC(".maps");
struct port_table dst_ports SEC(".maps");

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

/* The position of the lowest bit of a number that is not 0; BPF has no instruction for it (de Bruijn's sequence). */
static const __u8 positions[64] = {
	0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,  62, 55, 59, 36, 53, 51,
	43, 22, 45, 39, 33, 30, 24, 18, 12, 5,  63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21,
	44, 32, 23, 11, 46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};

static __always_inline __u32 lowest(__u64 bits)
{
	return positions[((bits & -bits) * 0x03f79d71b4cb0a89ULL) >> 58];
}

static __always_inline __u64 *vector(__u32 class)
{
	return bpf_map_lookup_elem(&vectors, &class);
}

static __always_inline __u32 walk(__u32 entry, const __u64 *address)
{
	int i;

	for (i = 0; i < MOST_STEPS; i++) {
		__u32 number = entry & ENTRY_NUMBER;

		if (!(entry & ENTRY_NODE))
			break;
		if (entry & ENTRY_CHAIN) {
			struct chain *chain = bpf_map_lookup_elem(&chains, &number);

			if (!chain)
				return 0;
			if ((address[0] & chain->mask[0]) == chain->value[0] &&
			    (address[1] & chain->mask[1]) == chain->value[1])
				entry = chain->hit;
			else
				entry = chain->miss;
		} else {
			struct block *block = bpf_map_lookup_elem(&blocks, &number);

			if (!block)
				return 0;
			entry = block->entries[((const __u8 *)address)[entry >> ENTRY_BYTE_SHIFT & 15]];
		}
	}
	return entry & 0xffff;
}

static __always_inline __u32 mac_class(void *table, __u64 mac, __u64 factor, __u32 shift, __u32 none)
{
	__u32 number = mac * factor >> (shift & 63);
	struct bucket *bucket = bpf_map_lookup_elem(table, &number);
	int i;

	if (!bucket)
		return none;
	for (i = 0; i < 4; i++)
		if ((bucket->slots[i] & ((1ULL << 48) - 1)) == mac)
			return bucket->slots[i] >> 48;
	return none;
}

static __always_inline __u64 read_mac(const __u8 *bytes)
{
	return (__u64)bpf_ntohs(*(const __be16 *)bytes) << 32 | bpf_ntohl(*(const __be32 *)(bytes + 2));
}

static __always_inline __u32 port_class(void *table, __u32 port)
{
	struct ports *ports;
	__u32 zero = 0;

	ports = bpf_map_lookup_elem(table, &zero);
	return ports ? ports->numbers[port & 0xffff] : 0;
}

static __always_inline __u32 kind_class(const struct steer_head *head)
{
	struct kinds *table;
	__u32 zero = 0;

	table = bpf_map_lookup_elem(&kinds, &zero);
	if (!table)
		return 0;
	if (head->has & STEER_HAS_IP)
		return table->ip[(head->key.is_ipv6 & 1) << 9 | (head->has & STEER_IS_FRAGMENT ? 1 << 8 : 0) |
				 head->key.protocol];
	return table->others[head->ether_type];
}

static __always_inline __u32 vlan_class(const struct steer_head *head)
{
	struct vlans *table;
	__u32 zero = 0;

	table = bpf_map_lookup_elem(&vlans, &zero);
	return table ? table->ids[head->key.vlan & 0xfff] : 0;
}

static __always_inline __u32 src_class(const struct steer_head *head)
{
	if (head->has & STEER_HAS_IP)
		return walk(head->key.is_ipv6 ? src_v6 : src_v4, head->key.src);
	return src_none;
}

static __always_inline __u32 dst_class(const struct steer_head *head)
{
	if (head->has & STEER_HAS_IP)
		return walk(head->key.is_ipv6 ? dst_v6 : dst_v4, head->key.dst);
	if (head->has & STEER_HAS_ARP_TARGET)
		return walk(dst_arp, head->key.dst);
	return dst_none;
}

/* The vectors of the fields that are asked for. */
#define FOR_EACH_FIELD(DO) \
	DO(kinds)          \
	DO(vlans)          \
	DO(src_macs)       \
	DO(dst_macs)       \
	DO(src)            \
	DO(dst)            \
	DO(src_ports)      \
	DO(dst_ports)

/* The number of the first rule that matches, or that of the default. */
static __always_inline __u32 first_match(const struct steer_head *head, const __u8 *macs)
{
	__u64 *in_kinds, *in_vlans, *in_src_macs, *in_dst_macs, *in_src, *in_dst, *in_src_ports, *in_dst_ports;
	__u64 summary = ALL;
	__u32 class, first = rules;
	int i;

#define LOOK_UP(field, how)                            \
	if (with_##field) {                            \
		class = how;                           \
		in_##field = vector(class);            \
		if (!in_##field)                       \
			return rules;                  \
		summary &= in_##field[0];              \
	}
	LOOK_UP(kinds, kind_class(head))
	LOOK_UP(vlans, vlan_class(head))
	LOOK_UP(src_macs, mac_class(&src_macs, read_mac(macs + 6), src_mac_factor, src_mac_shift, src_mac_none))
	LOOK_UP(dst_macs, mac_class(&dst_macs, read_mac(macs), dst_mac_factor, dst_mac_shift, dst_mac_none))
	LOOK_UP(src, src_class(head))
	LOOK_UP(dst, dst_class(head))
	LOOK_UP(src_ports, head->has & STEER_HAS_PORTS ? port_class(&src_ports, head->key.src_port) : src_port_none)
	LOOK_UP(dst_ports, head->has & STEER_HAS_PORTS ? port_class(&dst_ports, head->key.dst_port) : dst_port_none)

	for (i = 0; i < MOST_WORDS; i++) {
		__u64 common = ALL;
		__u32 word;

		if (!summary)
			break;
		word = lowest(summary);
		if (word >= words)
			break;
#define COMMON(field)                                      \
		if (with_##field)                          \
			common &= in_##field[1 + word];
		FOR_EACH_FIELD(COMMON)
		if (common) {
			__u32 bit = word * 64 + lowest(common), *rule;

			if (!with_order)
				return bit;
			rule = bpf_map_lookup_elem(&order, &bit);
			if (rule && *rule < first)
				first = *rule;
		}
		summary &= summary - 1;
	}
	return first;
}

/* Hands a packet to the AF_XDP socket of its queue, with the tag in front of it. */
static __always_inline int redirect(struct xdp_md *ctx, struct steer_counters *seen, __u16 tag)
{
	struct steer_meta *meta;

	/* The helper returns its flags argument when the slot is empty. */
	if (bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS) != XDP_REDIRECT) {
		seen->passed += 1;
		seen->missing += 1;
		return XDP_PASS;
	}
	seen->redirected += 1;
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)) != 0) {
		seen->untagged += 1;
		return XDP_REDIRECT;
	}
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) <= (void *)(long)ctx->data) {
		meta->tag = tag;
		meta->reserved = 0;
		meta->magic = STEER_MAGIC;
	}
	return XDP_REDIRECT;
}

static __always_inline int act(struct xdp_md *ctx, struct steer_counters *seen, __u32 action)
{
	if (action < STEER_KERNEL)
		return redirect(ctx, seen, action);
	if (action == STEER_DROP) {
		seen->dropped += 1;
		return XDP_DROP;
	}
	seen->passed += 1;
	return XDP_PASS;
}

/* ICMP messages of one exchange are one flow: both ports are the identifier. */
static __always_inline void read_icmp_id(struct steer_head *head, void *start, void *end)
{
	/* No packet's is so far as the mask allows; the verifier wants to see that the offset does not overflow. */
	__u8 *icmp = start + (head->l4_offset & 0x7fff);

	if (!head->l4_offset || head->key.protocol != (head->key.is_ipv6 ? 58 : 1) || (void *)(icmp + 8) > end)
		return;
	if (head->key.is_ipv6 ? icmp[0] == 128 || icmp[0] == 129
			      : icmp[0] == 0 || icmp[0] == 8 || icmp[0] == 13 || icmp[0] == 14)
		head->key.src_port = head->key.dst_port = bpf_ntohs(*(__be16 *)(icmp + 4));
}

SEC("xdp")
int steer_rules(struct xdp_md *ctx)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct steer_counters *seen = the_counters();
	struct steer_head *head = the_head();
	struct rule_counters *of_rule;
	struct steer_control *now;
	__u32 zero = 0, rule, *action;

	if (!head || !seen || start + 14 > end)
		return XDP_ABORTED;

	now = bpf_map_lookup_elem(&control, &zero);
	if (now && now->flows && head->has & STEER_HAS_IP) {
		struct steer_flow *flow;

		read_icmp_id(head, start, end);
		flow = bpf_map_lookup_elem(&flows, &head->key);
		if (flow && flow->expires_ns > bpf_ktime_get_coarse_ns()) {
			__sync_fetch_and_add(&flow->packets, 1);
			seen->by_flow += 1;
			return act(ctx, seen, flow->action);
		}
	}

	rule = first_match(head, start);
	action = bpf_map_lookup_elem(&actions, &rule);
	of_rule = bpf_map_lookup_elem(&rule_counters, &rule);
	if (!action || !of_rule)
		return XDP_ABORTED;
	of_rule->packets += 1;
	of_rule->bytes += end - start;
	return act(ctx, seen, *action);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
