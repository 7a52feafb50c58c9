/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How packets are handed to AF_XDP sockets, each with a tag in front of it that says where it goes. */
#ifndef MIDDLENET_HAND_OVER_H
#define MIDDLENET_HAND_OVER_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* In front of a packet in its AF_XDP buffer; `meta.rs` reads it. */
struct steer_meta {
	__u16 tag;
	__u16 way; /* of a packet that fast paths have dealt with: the port by which it leaves and one, and bits */
	__u32 magic;
};
#define STEER_MAGIC 0x6e74656dU
#define STEER_WAY_REVERSE (1 << 15)

/* The AF_XDP sockets by receive queue; ports that have fast paths share one, and each has slots of its own in it. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

#define NO_SOCKET 1
#define NO_ROOM 2

/* Hands a packet to the socket in a slot, with a tag in front of it; 0 if that is done. After NO_ROOM, XDP_REDIRECT hands it over
 * without one. */
static __always_inline int hand_over(struct xdp_md *ctx, __u32 slot, __u16 tag, __u16 way)
{
	struct steer_meta *meta;

	/* The helper returns its flags argument when the slot is empty. */
	if (bpf_redirect_map(&xsks, slot, XDP_PASS) != XDP_REDIRECT)
		return NO_SOCKET;
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)) != 0)
		return NO_ROOM;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return NO_ROOM;
	meta->tag = tag;
	meta->way = way;
	meta->magic = STEER_MAGIC;
	return 0;
}

#endif
