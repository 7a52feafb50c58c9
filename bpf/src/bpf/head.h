/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How the head of a packet is read; `Head::parse` in sdk/steer says what is read, and what of a malformed packet. */
#ifndef MIDDLENET_HEAD_H
#define MIDDLENET_HEAD_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The key of a flow; `flows.rs` writes it as it is laid out here. Addresses are in network order, IPv4 ones IPv4-mapped;
 * numbers are in the processor's order. */
struct steer_key {
	__u64 src[2];
	__u64 dst[2]; /* of ARP, the address it asks for */
	__u16 src_port;
	__u16 dst_port;
	__u16 vlan;
	__u8 protocol;
	__u8 is_ipv6;
};

/* Bits of `steer_head.has`: which fields the packet has. */
#define STEER_HAS_IP 1 /* addresses and protocol of the key */
#define STEER_HAS_PORTS 2
#define STEER_HAS_ARP_TARGET 4
#define STEER_IS_FRAGMENT 8
#define STEER_IS_ROUTED 16 /* by the sender: the destination may be another one than its header says */

/* `Head` in sdk/steer, but for the MAC addresses, which are always at the same place. */
struct steer_head {
	struct steer_key key;
	__u16 ether_type;
	__u16 l3_offset; /* of the bytes behind the Ethernet header and its tags */
	__u16 l4_offset; /* of the bytes behind the IP headers; 0 where there are none to read */
	__u16 has;
};

#define STEER_ETHERNET_BYTES 14
#define STEER_TAGS 2
#define STEER_EXTENSIONS 8
#define MAPPED bpf_htonl(0xffff)

struct vlan {
	__be16 control;
	__be16 next;
};

struct ipv4 {
	__u8 version_and_words;
	__u8 service;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u32 src;
	__u32 dst;
};

struct ipv6 {
	__u8 version;
	__u8 rest[5];
	__u8 next;
	__u8 hops;
	__u32 src[4];
	__u32 dst[4];
};

struct extension {
	__u8 next;
	__u8 words;
	__be16 fragment;
	__u32 id;
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__u8 sender[16];
	__u8 target_mac[2];
	__u32 target;
} __attribute__((packed));

static __always_inline __u64 pair(__u32 first, __u32 second)
{
	union {
		__u32 words[2];
		__u64 both;
	} pair = {{first, second}};

	return pair.both;
}

static __always_inline __u32 read_ports(struct steer_head *head, __u16 *ports, void *end)
{
	__u8 protocol = head->key.protocol;

	if (protocol != 6 && protocol != 17 && protocol != 132)
		return 0;
	if ((void *)(ports + 2) > end)
		return 0;
	head->key.src_port = bpf_ntohs(ports[0]);
	head->key.dst_port = bpf_ntohs(ports[1]);
	return STEER_HAS_PORTS;
}

static __always_inline __u32 read_ipv4(struct steer_head *head, struct ipv4 *ip, void *start, void *end)
{
	__u32 has = STEER_HAS_IP, length;
	void *behind;

	if ((void *)(ip + 1) > end)
		return 0;
	length = (ip->version_and_words & 0xf) * 4;
	behind = (void *)ip + length;
	if (ip->version_and_words >> 4 != 4 || length < sizeof(*ip) || behind > end)
		return 0;
	head->key.protocol = ip->protocol;
	head->key.src[1] = pair(MAPPED, ip->src);
	head->key.dst[1] = pair(MAPPED, ip->dst);
	if (ip->fragment & bpf_htons(0x3fff))
		has |= STEER_IS_FRAGMENT;
	if (ip->fragment & bpf_htons(0x1fff))
		return has;
	head->l4_offset = behind - start;
	return has | read_ports(head, behind, end);
}

/* Whether a protocol is an extension header of IPv6 that stands before the upper layer: for each hop, routing, fragment, destination. */
static __always_inline int is_extension(__u8 protocol)
{
	return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60;
}

static __always_inline __u32 read_ipv6(struct steer_head *head, struct ipv6 *ip, void *start, void *end)
{
	__u32 has = STEER_HAS_IP;
	void *behind = ip + 1;
	__u8 protocol;
	int i;

	if (behind > end || ip->version >> 4 != 6)
		return 0;
	head->key.is_ipv6 = 1;
	head->key.src[0] = pair(ip->src[0], ip->src[1]);
	head->key.src[1] = pair(ip->src[2], ip->src[3]);
	head->key.dst[0] = pair(ip->dst[0], ip->dst[1]);
	head->key.dst[1] = pair(ip->dst[2], ip->dst[3]);
	protocol = ip->next;
	for (i = 0; i < STEER_EXTENSIONS; i++) {
		struct extension *extension = behind;

		if (!is_extension(protocol))
			break;
		if ((void *)(extension + 1) > end) {
			head->key.protocol = protocol;
			return has;
		}
		if (protocol == 44) {
			has |= STEER_IS_FRAGMENT;
			protocol = extension->next;
			behind = extension + 1;
			if (extension->fragment & bpf_htons(0xfff8)) {
				head->key.protocol = protocol;
				return has;
			}
		} else {
			if (protocol == 43)
				has |= STEER_IS_ROUTED;
			protocol = extension->next;
			behind += (extension->words + 1) * 8;
		}
	}
	head->key.protocol = protocol;
	head->l4_offset = behind - start;
	return has | read_ports(head, behind, end);
}

static __always_inline __u32 read_arp(struct steer_head *head, struct arp *arp, void *end)
{
	if ((void *)(arp + 1) > end)
		return 0;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(0x0800) || arp->hardware_bytes != 6 ||
	    arp->protocol_bytes != 4)
		return 0;
	head->key.dst[1] = pair(MAPPED, arp->target);
	return STEER_HAS_ARP_TARGET;
}

/* Reads the head of a packet of STEER_ETHERNET_BYTES at least into one that is zeros. */
static __always_inline void read_head(struct steer_head *head, void *start, void *end)
{
	struct vlan *behind = start + STEER_ETHERNET_BYTES;
	__u16 ether_type = *(__be16 *)(start + 12);
	int tag;

	for (tag = 0; tag < STEER_TAGS; tag++) {
		if (ether_type != bpf_htons(0x8100) && ether_type != bpf_htons(0x88a8))
			break;
		if ((void *)(behind + 1) > end)
			goto known;
		if (tag == 0)
			head->key.vlan = bpf_ntohs(behind->control) & 0xfff;
		ether_type = behind->next;
		behind++;
	}
	head->l3_offset = STEER_ETHERNET_BYTES + tag * sizeof(*behind);
	if (ether_type == bpf_htons(0x0800))
		head->has = read_ipv4(head, (void *)behind, start, end);
	else if (ether_type == bpf_htons(0x86dd))
		head->has = read_ipv6(head, (void *)behind, start, end);
	else if (ether_type == bpf_htons(0x0806))
		head->has = read_arp(head, (void *)behind, end);
known:
	head->ether_type = bpf_ntohs(ether_type);
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

#endif
