/* What MiddleNet uses of libdpdk, as seen by bindgen.
 *
 * The static inline functions below become real functions in the shim that bindgen writes (`wrap_static_fns`). They stand
 * here where the C construct has no counterpart in a binding: a macro, a thread-local variable, a bit field whose place
 * differs between DPDK releases. Everything is called at most once per burst.
 */
#include <stddef.h>
#include <stdbool.h>
#include <stdio.h>

#include <rte_bus.h>
#include <rte_config.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_memory.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_version.h>

/* Offsets in struct rte_mbuf. The nesting of its anonymous unions differs between releases, the layout of these fields is
 * asserted by the user of the constants. */
enum dpdk_sys_layout {
	DPDK_SYS_MBUF_BYTES = sizeof(struct rte_mbuf),
	DPDK_SYS_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	DPDK_SYS_MBUF_BUF_IOVA = offsetof(struct rte_mbuf, buf_iova),
	DPDK_SYS_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	DPDK_SYS_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	DPDK_SYS_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	DPDK_SYS_MBUF_PORT = offsetof(struct rte_mbuf, port),
	DPDK_SYS_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	DPDK_SYS_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	DPDK_SYS_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	DPDK_SYS_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
};

/* Macros with casts, which bindgen does not evaluate. */
static const uint64_t DPDK_SYS_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t DPDK_SYS_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t DPDK_SYS_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t DPDK_SYS_RSS_UDP = RTE_ETH_RSS_UDP;

/* rte_errno is a thread-local variable behind a macro. */
static inline int dpdk_sys_errno(void)
{
	return rte_errno;
}

/* Link of a port without waiting for autonegotiation; struct rte_eth_link holds bit fields. */
static inline int dpdk_sys_link(uint16_t port, uint32_t *speed_mbps, bool *up, bool *full_duplex)
{
	struct rte_eth_link link;
	int ret = rte_eth_link_get_nowait(port, &link);

	if (ret != 0)
		return ret;
	*speed_mbps = link.link_speed;
	*up = link.link_status;
	*full_duplex = link.link_duplex;
	return 0;
}

/* struct rte_device is public in 22.11 and opaque since. */
static inline const char *dpdk_sys_device_name(const struct rte_device *device)
{
	return rte_dev_name(device);
}

static inline const char *dpdk_sys_device_bus_name(const struct rte_device *device)
{
	return rte_bus_name(rte_dev_bus(device));
}

/* Bit fields of the flow interface. */
static inline void dpdk_sys_flow_attr(struct rte_flow_attr *attr, uint32_t priority)
{
	attr->priority = priority;
	attr->ingress = 1;
}

static inline bool dpdk_sys_flow_attr_ingress(const struct rte_flow_attr *attr)
{
	return attr->ingress;
}
