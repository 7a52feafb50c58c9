/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * How the first rule is found that matches a packet. The tables are those of `Tables` in sdk/steer/src/tables.rs, which says how they
 * work; each rule set has its own, of the size it needs.
 */
#ifndef MIDDLENET_FIRST_MATCH_H
#define MIDDLENET_FIRST_MATCH_H

#include "head.h"

#define WITH_kinds (1 << 0)
#define WITH_vlans (1 << 1)
#define WITH_src_macs (1 << 2)
#define WITH_dst_macs (1 << 3)
#define WITH_src (1 << 4)
#define WITH_dst (1 << 5)
#define WITH_src_ports (1 << 6)
#define WITH_dst_ports (1 << 7)
#define WITH_FIELDS 0xff /* any of those */
/* A bit of a vector is another rule than that of its number. */
#define WITH_ORDER (1 << 8)
/* Vectors have one word and are few: they are in `small_vectors`, and the actions in `small_actions`. */
#define IS_SMALL (1 << 9)
/* Of a small set: IPv4 addresses are looked up in `small_src`, `small_dst`. */
#define SRC_BY_BYTE (1 << 10)
#define DST_BY_BYTE (1 << 11)
/* Some chain of the port has fast paths: see steer_rules.bpf.c. */
#define WITH_FAST (1 << 12)

/* Words of a vector; a summary goes before them. */
const volatile __u32 words = 1;
/* How many rules; the number after the last stands for the default. */
const volatile __u32 rules = 0;

/* What the set has: fields that any rule asks for, and the flags below; `rule_set.rs` says so. In one word, since the kernel
 * leaves out the branches that a constant rules out, but not that it is read. */
const volatile __u32 parts = 0;

/* The classes of packets that lack a field, and where the tries begin. */
const volatile __u32 src_none = 0, src_v4 = 0, src_v6 = 0;
const volatile __u32 dst_none = 0, dst_v4 = 0, dst_v6 = 0, dst_arp = 0;
const volatile __u32 src_port_none = 0, dst_port_none = 0;
const volatile __u32 src_mac_none = 0, src_mac_shift = 0;
const volatile __u32 dst_mac_none = 0, dst_mac_shift = 0;
const volatile __u64 src_mac_factor = 0, dst_mac_factor = 0;

#define SMALL_VECTORS 256
#define SMALL_ACTIONS 128
const volatile __u64 small_vectors[SMALL_VECTORS];
const volatile __u32 small_actions[SMALL_ACTIONS];
/* The rules for each value of each byte of an address: `small.rs` says how. */
const volatile __u64 small_src[4][256], small_dst[4][256];

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

/* The fields that may be asked for. */
#define FOR_EACH_FIELD(DO) \
	DO(kinds)          \
	DO(vlans)          \
	DO(src_macs)       \
	DO(dst_macs)       \
	DO(src)            \
	DO(dst)            \
	DO(src_ports)      \
	DO(dst_ports)

/* Keeps the rules that an IPv4 address leaves. */
#define BY_BYTE(table, address)                                           \
	do {                                                              \
		const __u8 *bytes = (const __u8 *)(address) + 12;         \
		summary &= table[0][bytes[0]] & table[1][bytes[1]];       \
		summary &= table[2][bytes[2]] & table[3][bytes[3]];       \
	} while (0)

/* Keeps the rules, or the words with rules, that the class of a field leaves. */
#define LOOK_UP(field, how)                                               \
	if (has & WITH_##field) {                                         \
		class = how;                                              \
		if (has & IS_SMALL) {                                     \
			summary &= small_vectors[class % SMALL_VECTORS];  \
		} else {                                                  \
			in_##field = vector(class);                       \
			if (!in_##field)                                  \
				return first;                             \
			summary &= in_##field[0];                         \
		}                                                         \
	}

/* The number of the first rule that matches, or that of the default. */
static __always_inline __u32 first_match(const struct steer_head *head, const __u8 *macs, __u32 has)
{
	__u64 *in_kinds = 0, *in_vlans = 0, *in_src_macs = 0, *in_dst_macs = 0;
	__u64 *in_src = 0, *in_dst = 0, *in_src_ports = 0, *in_dst_ports = 0;
	__u8 is_ipv4 = head->has & STEER_HAS_IP && !head->key.is_ipv6;
	__u64 summary = ALL;
	__u32 class, first = rules;
	int i;

	LOOK_UP(kinds, kind_class(head))
	LOOK_UP(vlans, vlan_class(head))
	LOOK_UP(src_macs, mac_class(&src_macs, read_mac(macs + 6), src_mac_factor, src_mac_shift, src_mac_none))
	LOOK_UP(dst_macs, mac_class(&dst_macs, read_mac(macs), dst_mac_factor, dst_mac_shift, dst_mac_none))
	if (has & SRC_BY_BYTE && is_ipv4)
		BY_BYTE(small_src, head->key.src);
	else
		LOOK_UP(src, src_class(head))
	if (has & DST_BY_BYTE && is_ipv4)
		BY_BYTE(small_dst, head->key.dst);
	else
		LOOK_UP(dst, dst_class(head))
	LOOK_UP(src_ports, head->has & STEER_HAS_PORTS ? port_class(&src_ports, head->key.src_port) : src_port_none)
	LOOK_UP(dst_ports, head->has & STEER_HAS_PORTS ? port_class(&dst_ports, head->key.dst_port) : dst_port_none)

	if (has & IS_SMALL)
		return summary ? lowest(summary) : first;
	for (i = 0; i < MOST_WORDS; i++) {
		__u64 common = ALL;
		__u32 word;

		if (!summary)
			break;
		word = lowest(summary);
		if (word >= words)
			break;
#define COMMON(field)                                      \
		if ((has & WITH_##field) && in_##field)    \
			common &= in_##field[1 + word];
		FOR_EACH_FIELD(COMMON)
		if (common) {
			__u32 bit = word * 64 + lowest(common), *rule;

			if (!(has & WITH_ORDER))
				return bit;
			rule = bpf_map_lookup_elem(&order, &bit);
			if (rule && *rule < first)
				first = *rule;
		}
		summary &= summary - 1;
	}
	return first;
}

#endif
