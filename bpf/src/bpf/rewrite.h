/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How rules write into packets. Checksums are kept right by the difference of what they cover (RFC 1624, equation 3). */
#ifndef MIDDLENET_REWRITE_H
#define MIDDLENET_REWRITE_H

#include "lookup.h"

#define FAST_SET_ADDRESSES (FAST_SET_SRC | FAST_SET_DST)
#define FAST_SET_PORTS (FAST_SET_SRC_PORT | FAST_SET_DST_PORT)
#define FAST_SET_ANY 0x3f

#define PROTOCOL_DCCP 33
#define PROTOCOL_ICMP6 58
#define PROTOCOL_UDPLITE 136

enum fits {
	FITS,
	FITS_NOT,
	FITS_BUT_TTL, /* is over */
};

static __always_inline __u64 changed(__u32 before, __u32 after)
{
	return (__u64)(__u32)~before + after;
}

static __always_inline __u64 changed16(__u16 before, __u16 after)
{
	return (__u64)(__u16)~before + after;
}

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 patched(__u16 checksum, __u64 difference)
{
	return ~folded((__u16)~checksum + difference);
}

/* Where the checksum of a protocol is that covers the addresses; 0 if none does. */
static __always_inline __u32 checksum_offset(__u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return 16;
	case PROTOCOL_UDP:
	case PROTOCOL_DCCP:
	case PROTOCOL_UDPLITE:
		return 6;
	case PROTOCOL_ICMP6:
		return 2;
	}
	return 0;
}

static __always_inline int has_options(const struct ipv4 *ip)
{
	return (ip->version_and_words & 0xf) != sizeof(*ip) / 4;
}

static __always_inline __u64 write_ipv4(__u32 *in_packet, __u64 *in_key, const __u64 *address)
{
	__u32 before = *in_packet, after = address[1] >> 32;

	*in_packet = after;
	in_key[1] = pair(MAPPED, after);
	return changed(before, after);
}

static __always_inline __u64 write_ipv6(__u32 *in_packet, __u64 *in_key, const __u64 *address)
{
	__u64 difference = 0;
	__u32 words[4] = {address[0], address[0] >> 32, address[1], address[1] >> 32};
	int i;

	for (i = 0; i < 4; i++) {
		difference += changed(in_packet[i], words[i]);
		in_packet[i] = words[i];
	}
	in_key[0] = pair(words[0], words[1]);
	in_key[1] = pair(words[2], words[3]);
	return difference;
}

static __always_inline __u64 write_port(__be16 *in_packet, __u16 *in_key, __u16 port)
{
	__be16 before = *in_packet, after = bpf_htons(port);

	*in_packet = after;
	*in_key = port;
	return changed16(before, after);
}

/* Writes into a packet and its head what an action asks for, all of it or nothing. */
static __always_inline enum fits rewrite(struct steer_head *head, const struct fast_action *action, void *start, void *end)
{
	__u8 what = action->rewrite, protocol = head->key.protocol, *macs = start;
	/* The masks take nothing away; the verifier wants to see that no offset overflows. */
	struct ipv4 *v4 = start + (head->l3_offset & 0x3f);
	struct ipv6 *v6 = (void *)v4;
	void *l4 = start + (head->l4_offset & 0x7fff);
	__be16 *checksum = 0, *ports = 0;
	__u64 of_ip = 0, of_l4 = 0;
	__u32 at;

	if (!what)
		return FITS;
	if (what & ~FAST_SET_ANY)
		return FITS_NOT;
	if (start + STEER_ETHERNET_BYTES > end)
		return FITS_NOT;
	if (what & ~FAST_SET_ETHERNET) {
		if (!(head->has & STEER_HAS_IP))
			return FITS_NOT;
		if (what & FAST_SET_PORTS &&
		    (!(head->has & STEER_HAS_PORTS) || (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP)))
			return FITS_NOT;
		if (what & FAST_SET_SRC && is_mapped(action->src) == head->key.is_ipv6)
			return FITS_NOT;
		if (what & FAST_SET_DST && is_mapped(action->dst) == head->key.is_ipv6)
			return FITS_NOT;
		at = checksum_offset(protocol);
		if (head->l4_offset && at && what & (FAST_SET_ADDRESSES | FAST_SET_PORTS)) {
			checksum = l4 + at;
			if ((void *)(checksum + 1) > end)
				return FITS_NOT;
		}
		if (what & FAST_SET_PORTS) {
			ports = l4;
			if ((void *)(ports + 2) > end)
				return FITS_NOT;
		}
		if (head->key.is_ipv6) {
			if ((void *)(v6 + 1) > end)
				return FITS_NOT;
			/* Where the checksum is, or what it covers, is not known. */
			if (what & FAST_SET_ADDRESSES && (is_extension(protocol) || head->has & STEER_IS_ROUTED))
				return FITS_NOT;
			if (what & FAST_LOWER_TTL) {
				if (v6->hops <= 1)
					return FITS_BUT_TTL;
				v6->hops -= 1;
			}
			if (what & FAST_SET_SRC)
				of_l4 += write_ipv6(v6->src, head->key.src, action->src);
			if (what & FAST_SET_DST)
				of_l4 += write_ipv6(v6->dst, head->key.dst, action->dst);
		} else {
			__u16 *ttl_and_protocol = (void *)&v4->ttl, before;

			if ((void *)(v4 + 1) > end)
				return FITS_NOT;
			/* Who lowers the TTL is a router, which has options to read. */
			if (what & FAST_LOWER_TTL && has_options(v4))
				return FITS_NOT;
			if (what & FAST_LOWER_TTL && v4->ttl <= 1)
				return FITS_BUT_TTL;
			if (what & FAST_SET_SRC)
				of_l4 += write_ipv4(&v4->src, head->key.src, action->src);
			if (what & FAST_SET_DST)
				of_l4 += write_ipv4(&v4->dst, head->key.dst, action->dst);
			of_ip = of_l4;
			if (what & FAST_LOWER_TTL) {
				before = *ttl_and_protocol;
				v4->ttl -= 1;
				of_ip += changed16(before, *ttl_and_protocol);
			}
			v4->checksum = patched(v4->checksum, of_ip);
		}
		if (ports && what & FAST_SET_SRC_PORT)
			of_l4 += write_port(&ports[0], &head->key.src_port, action->src_port);
		if (ports && what & FAST_SET_DST_PORT)
			of_l4 += write_port(&ports[1], &head->key.dst_port, action->dst_port);
		/* Of UDP, 0 stands for none. */
		if (checksum && (protocol != PROTOCOL_UDP || *checksum)) {
			__u16 sum = patched(*checksum, of_l4);

			*checksum = protocol == PROTOCOL_UDP && !sum ? 0xffff : sum;
		}
	}
	if (what & FAST_SET_ETHERNET) {
		__builtin_memcpy(macs, action->eth_dst, 6);
		__builtin_memcpy(macs + 6, action->eth_src, 6);
	}
	return FITS;
}

#endif
