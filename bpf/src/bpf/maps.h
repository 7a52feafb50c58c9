/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The maps that a function and its fast path share. What functions write into them is data that is not to be trusted. */
#ifndef MIDDLENET_MAPS_H
#define MIDDLENET_MAPS_H

#include "fast_path.h"

#define HAS_FLOWS (1 << 0)
#define HAS_SRC_PREFIXES (1 << 1)
#define HAS_DST_PREFIXES (1 << 2)
#define HAS_SRC_PORTS (1 << 3)
#define HAS_DST_PORTS (1 << 4)
#define HAS_RULES (1 << 5)
#define HAS_SERVICES (1 << 6)
#define HAS_CLASSES (1 << 7)

/* Which of the maps there are; they are in no other part of the program. */
const volatile __u32 parts = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct steer_key);
	__type(value, struct fast_flow);
} flows SEC(".maps");

struct prefixes {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fast_prefix);
	__type(value, __u32);
};

struct prefixes src_prefixes SEC(".maps");
struct prefixes dst_prefixes SEC(".maps");

/* By protocol and port: the number of a rule and one. */
struct port_rules {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 17);
	__type(key, __u32);
	__type(value, __u32);
};

struct port_rules src_ports SEC(".maps");
struct port_rules dst_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_action);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_count);
} rule_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_count);
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct fast_service_key);
	__type(value, struct fast_service);
} services SEC(".maps");

/* The number of a rule. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

#endif
