// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Hands every packet that arrives on receive queue q to the AF_XDP socket in slot q of `xsks`. A queue without a socket
 * keeps working as it did: its packets go on to the kernel's own stack.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Slots of `counters`; `xdp.rs` reads them by the same numbers. */
enum counter {
	COUNTER_REDIRECTED, /* handed to an AF_XDP socket */
	COUNTER_PASSED,     /* handed to the kernel's stack, for any reason */
	COUNTER_MISSING,    /* of those passed: the queue had no socket */
	COUNTER_SLOTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 slot)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &slot);

	if (value)
		*value += 1;
}

SEC("xdp")
int xdp_redirect(struct xdp_md *ctx)
{
	/* The helper returns its flags argument when the slot is empty. */
	long verdict = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);

	if (verdict == XDP_REDIRECT) {
		count(COUNTER_REDIRECTED);
	} else {
		count(COUNTER_PASSED);
		count(COUNTER_MISSING);
	}
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
