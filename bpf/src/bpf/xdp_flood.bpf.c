// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Makes traffic for measurements: run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES), it writes the next head of a list into
 * each frame and sends it out of an interface. It is attached to none.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define HEAD_BYTES 64

/* The interface that frames leave by. */
const volatile __u32 ifindex = 0;
/* How many heads there are: a power of two, less one. */
const volatile __u32 mask = 0;

struct head {
	__u64 words[HEAD_BYTES / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct head);
} heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

SEC("xdp")
int xdp_flood(struct xdp_md *ctx)
{
	struct head *to = (void *)(long)ctx->data, *from;
	__u32 zero = 0, *number, slot;

	number = bpf_map_lookup_elem(&next, &zero);
	if (!number || (void *)(to + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	slot = (*number)++ & mask;
	from = bpf_map_lookup_elem(&heads, &slot);
	if (!from)
		return XDP_ABORTED;
	*to = *from;
	return bpf_redirect(ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
