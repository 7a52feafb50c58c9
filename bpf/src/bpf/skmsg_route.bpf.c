// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Passes groups of descriptors between the sockets of a domain, and moves the buffers' entries in the ledger with them.
 *
 * A message is one group: a head of 16 bytes, then 1 to 64 descriptors of 16 bytes. The sender is known by storage that
 * the broker has put on its socket, so it can claim nothing. Whatever refuses a whole group does so before the ledger is
 * touched: the sender gets EPIPE and still holds what it held. A single descriptor that is not the sender's to pass is
 * struck out where it stands, and the rest goes on.
 *
 * A refused group is passed to `sink`, a connection shut for writing, which answers EPIPE. SK_DROP would not do: the
 * kernel (net/ipv4/tcp_bpf.c, tcp_bpf_send_verdict) keeps that verdict on the socket and never asks the program again, so
 * that one refusal would silence a sender for good.
 *
 * The bytes are the kernel's copy: the sender cannot change them between the check and the delivery.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The types that the descriptor's header takes from stdint.h, which clang's BPF target lacks. */
#define MIDDLENET_HAVE_STDINT
typedef __u8 uint8_t;
typedef __u16 uint16_t;
typedef __u32 uint32_t;
#include <middlenet_descriptor.h>

#define KEYS 256
#define MAX_GROUP 64
#define STRUCK_OUT 0xffffffffU

/* What goes before the descriptors; `Group` in sdk/src/middlebox/layout.rs. */
struct group {
	__u32 count;
	__u32 destination;
	__u32 reserved[2];
};
_Static_assert(sizeof(struct group) == sizeof(struct middlenet_descriptor), "the head is one cell");

/* Slots of `counters.refused`; `counters.rs` names them in the same order. */
enum refusal {
	/* Whole groups. */
	REFUSED_UNKNOWN_SENDER,
	REFUSED_TOO_SHORT,
	REFUSED_UNREADABLE, /* the kernel had no memory to make the bytes linear */
	REFUSED_BAD_COUNT,
	REFUSED_SIZE_MISMATCH,
	REFUSED_DESTINATION_RANGE,
	REFUSED_EDGE,
	REFUSED_NO_SOCKET,
	REFUSED_NOTHING_LEFT, /* each of its descriptors was struck out */
	/* Single descriptors. */
	REFUSED_INDEX_RANGE,
	REFUSED_NOT_HOLDER,
	REFUSED_STALE,
	REFUSALS,
};

struct counters {
	__u64 groups;
	__u64 descriptors;
	__u64 refused[REFUSALS];
};

struct edges {
	__u64 words[KEYS / 64];
};

/* The sockets, by key. The value is 64 bits wide so that user space can look up whether there is one. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, KEYS);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

/* Where refused groups go. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sink SEC(".maps");

/* The key of a socket, on the socket itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} senders SEC(".maps");

/* To whom a sender may pass groups, by the sender's key. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KEYS);
	__type(key, __u32);
	__type(value, struct edges);
} edges SEC(".maps");

/* Who holds a buffer: bits 0..16 the holder's key, bits 16..32 the generation. The number of buffers is set at load. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ledger SEC(".maps");

/*
 * By the sender's key; the last slot is for sockets without one. The program runs under the sender's socket lock, so the
 * additions to a slot of a key do not interleave on a processor.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KEYS + 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

static __always_inline int refuse(struct sk_msg_md *msg, struct counters *seen, enum refusal reason)
{
	seen->refused[reason] += 1;
	return bpf_msg_redirect_map(msg, &sink, 0, 0);
}

SEC("sk_msg")
int skmsg_route(struct sk_msg_md *msg)
{
	__u32 *identity = bpf_sk_storage_get(&senders, msg->sk, 0, 0);
	__u32 sender = identity ? *identity : KEYS;
	struct counters *seen = bpf_map_lookup_elem(&counters, &sender);
	struct edges *allowed;
	struct middlenet_descriptor *descriptor;
	struct group *group;
	void *end;
	__u32 size = msg->size;
	__u32 count, destination;
	__u64 descriptors;
	int i;

	if (!seen)
		return bpf_msg_redirect_map(msg, &sink, 0, 0);
	allowed = bpf_map_lookup_elem(&edges, &sender);
	if (!allowed)
		return refuse(msg, seen, REFUSED_UNKNOWN_SENDER);

	if (size < sizeof(*group) + sizeof(*descriptor))
		return refuse(msg, seen, REFUSED_TOO_SHORT);
	if (size > sizeof(*group) + MAX_GROUP * sizeof(*descriptor))
		return refuse(msg, seen, REFUSED_SIZE_MISMATCH);
	/*
	 * One piece of memory, also for the sake of the receiver: under memory pressure the kernel delivers the first pieces
	 * of a message and not the rest, and the stream would be out of step.
	 */
	if (msg->data + size > msg->data_end)
		bpf_msg_pull_data(msg, 0, size, 0);
	group = msg->data;
	end = msg->data_end;
	/* What follows ends at `end`: that must be the end of the message, so that nothing behind it goes unchecked. */
	if ((void *)group + size > end || (void *)(group + 1) > end)
		return refuse(msg, seen, REFUSED_UNREADABLE);

	count = group->count;
	destination = group->destination;
	if (count < 1 || count > MAX_GROUP)
		return refuse(msg, seen, REFUSED_BAD_COUNT);
	if (size != sizeof(*group) + count * sizeof(*descriptor))
		return refuse(msg, seen, REFUSED_SIZE_MISMATCH);
	if (destination >= KEYS)
		return refuse(msg, seen, REFUSED_DESTINATION_RANGE);
	if (!(allowed->words[destination / 64] >> (destination % 64) & 1))
		return refuse(msg, seen, REFUSED_EDGE);
	/*
	 * This only notes the receiver on the message. It comes before the ledger so that there is never anything to take
	 * back: between a move and its reversal, the receiver could have passed the buffer on.
	 */
	if (bpf_msg_redirect_map(msg, &sockets, destination, BPF_F_INGRESS) != SK_PASS)
		return refuse(msg, seen, REFUSED_NO_SOCKET);

	/*
	 * Counted on from the sum so far, not from 0: a constant for the verifier would be another state to walk for each
	 * number of descriptors passed.
	 */
	descriptors = seen->descriptors;
	descriptor = (struct middlenet_descriptor *)(group + 1);
	for (i = 0; i < MAX_GROUP; i++, descriptor++) {
		__u64 held, passed, found, *entry;
		__u32 index;

		if ((void *)(descriptor + 1) > end)
			break;
		index = descriptor->index;
		entry = bpf_map_lookup_elem(&ledger, &index);
		if (!entry) {
			seen->refused[REFUSED_INDEX_RANGE] += 1;
			descriptor->index = STRUCK_OUT;
			continue;
		}
		held = sender | (__u64)descriptor->generation << 16;
		passed = destination | (__u64)descriptor->generation << 16;
		found = __sync_val_compare_and_swap(entry, held, passed);
		if (found == held) {
			descriptors += 1;
			continue;
		}
		if ((__u16)found != sender)
			seen->refused[REFUSED_NOT_HOLDER] += 1;
		else
			seen->refused[REFUSED_STALE] += 1;
		descriptor->index = STRUCK_OUT;
	}

	if (descriptors == *(volatile __u64 *)&seen->descriptors)
		return refuse(msg, seen, REFUSED_NOTHING_LEFT);
	seen->groups += 1;
	seen->descriptors = descriptors;
	return SK_PASS;
}

/* The reference for benchmarks: where a group goes, and no check at all. */
SEC("sk_msg")
int skmsg_plain(struct sk_msg_md *msg)
{
	struct group *group = msg->data;

	if ((void *)(group + 1) <= msg->data_end &&
	    bpf_msg_redirect_map(msg, &sockets, group->destination, BPF_F_INGRESS) == SK_PASS)
		return SK_PASS;
	return bpf_msg_redirect_map(msg, &sink, 0, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
