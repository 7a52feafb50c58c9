// SPDX-License-Identifier: MIT OR Apache-2.0
// nDPI's interface in plain numbers and pointers. Its structures stay on this side, so that the C compiler checks their layout.

#include <stdint.h>
#include <string.h>

#include <ndpi_api.h>

_Static_assert(sizeof(((ndpi_protocol *)0)->app_protocol) == sizeof(uint16_t), "protocol numbers have 16 bits");

struct middlenet_ndpi_class {
	uint16_t master;
	uint16_t app;
	uint16_t category;
	uint8_t confidence;
	uint8_t may_refine;
};

static struct middlenet_ndpi_class class_of(struct ndpi_detection_module_struct *module, struct ndpi_flow_struct *flow,
					    ndpi_protocol found)
{
	return (struct middlenet_ndpi_class){
		.master = found.master_protocol,
		.app = found.app_protocol,
		.category = (uint16_t)found.category,
		.confidence = (uint8_t)flow->confidence,
		.may_refine = ndpi_extra_dissection_possible(module, flow) != 0,
	};
}

struct ndpi_detection_module_struct *middlenet_ndpi_new(int with_tor_hosts)
{
	NDPI_PROTOCOL_BITMASK all;
	struct ndpi_detection_module_struct *module =
		ndpi_init_detection_module(with_tor_hosts ? ndpi_no_prefs : ndpi_dont_load_tor_hosts);

	if (!module)
		return NULL;
	NDPI_BITMASK_SET_ALL(all);
	ndpi_set_protocol_detection_bitmask2(module, &all);
	return module;
}

int middlenet_ndpi_load(struct ndpi_detection_module_struct *module, const char *path)
{
	return ndpi_load_protocols_file(module, path);
}

void middlenet_ndpi_ready(struct ndpi_detection_module_struct *module)
{
	ndpi_finalize_initialization(module);
}

void middlenet_ndpi_free(struct ndpi_detection_module_struct *module)
{
	ndpi_exit_detection_module(module);
}

struct ndpi_flow_struct *middlenet_ndpi_flow_new(void)
{
	struct ndpi_flow_struct *flow = ndpi_flow_malloc(sizeof(*flow));

	if (flow)
		memset(flow, 0, sizeof(*flow));
	return flow;
}

void middlenet_ndpi_flow_free(struct ndpi_flow_struct *flow)
{
	// With what it points to.
	ndpi_free_flow(flow);
}

// IP version and protocol of a packet as nDPI itself reads it; -1 where it would go on without the header of TCP or UDP that
// the dissectors of a known flow rely on.
int32_t middlenet_ndpi_kind(const uint8_t *packet, uint16_t bytes)
{
	const uint8_t *l4 = NULL;
	uint16_t l4_bytes = 0;
	uint8_t protocol = 0;

	if (ndpi_detection_get_l4(packet, bytes, &l4, &l4_bytes, &protocol, 0) != 0 || !l4)
		return -1;
	if (l4 < packet || l4 > packet + bytes || l4_bytes > packet + bytes - l4)
		return -1;
	if (protocol == IPPROTO_TCP && (l4_bytes < 20 || l4[12] >> 4 < 5 || (l4[12] >> 4) * 4 > l4_bytes))
		return -1;
	if (protocol == IPPROTO_UDP && l4_bytes < 8)
		return -1;
	return (packet[0] >> 4) << 8 | protocol;
}

struct middlenet_ndpi_class middlenet_ndpi_packet(struct ndpi_detection_module_struct *module,
						  struct ndpi_flow_struct *flow, const uint8_t *packet, uint16_t bytes,
						  uint64_t now_ms)
{
	return class_of(module, flow, ndpi_detection_process_packet(module, flow, packet, bytes, now_ms));
}

struct middlenet_ndpi_class middlenet_ndpi_give_up(struct ndpi_detection_module_struct *module,
						   struct ndpi_flow_struct *flow, int guess)
{
	uint8_t guessed = 0;

	return class_of(module, flow, ndpi_detection_giveup(module, flow, guess != 0, &guessed));
}

uint32_t middlenet_ndpi_protocols(struct ndpi_detection_module_struct *module)
{
	return ndpi_get_num_supported_protocols(module);
}

const char *middlenet_ndpi_protocol_name(struct ndpi_detection_module_struct *module, uint16_t protocol)
{
	return ndpi_get_proto_name(module, protocol);
}

uint32_t middlenet_ndpi_categories(void)
{
	return NDPI_PROTOCOL_NUM_CATEGORIES;
}

const char *middlenet_ndpi_category_name(struct ndpi_detection_module_struct *module, uint16_t category)
{
	return ndpi_category_get_name(module, (ndpi_protocol_category_t)category);
}
