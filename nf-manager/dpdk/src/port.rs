use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as sys;

use crate::dma::{for_dma_ranges, map_for_dma};
use crate::error::{check, errno_of, reason};
use crate::pool::Pool;
use crate::queue::{RxQueue, TxQueue};
use crate::{DpdkError, Eal, event};

/// Ports that a `Port` stands for; a second one would close it under the first.
static OPEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// How to set a port up.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues, at least 1. With more than one, flows are spread by RSS where the device has it.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors per receive queue; the device may round.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue; the device may round.
    pub tx_descriptors: u16,
    /// Receive packets for other stations too. A function in the path of traffic wants that.
    pub promiscuous: bool,
    /// Station address; `None`: the device's own.
    pub mac: Option<[u8; 6]>,
    /// Largest packet above Ethernet, in bytes; `None`: 1500.
    pub mtu: Option<u16>,
    /// What received descriptors carry in `port`.
    pub number: u8,
    /// The device receives what [flows](Port::create_flow) ask for and nothing else, and leaves all other packets to the kernel.
    pub isolated: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 512,
            tx_descriptors: 512,
            promiscuous: true,
            mac: None,
            mtu: None,
            number: 0,
            isolated: false,
        }
    }
}

/// State of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether packets pass.
    pub up: bool,
    /// Speed in Mb/s; `None` when the device does not know.
    pub speed_mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// What a device can do, and what of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the driver.
    pub driver: String,
    /// Receive queues it has.
    pub max_rx_queues: u16,
    /// Transmit queues it has.
    pub max_tx_queues: u16,
    /// Largest MTU in bytes.
    pub max_mtu: u16,
    /// Flows are spread over the receive queues, both directions of a flow to the same queue.
    pub rss: bool,
    /// Sent buffers are freed in bulk (`MBUF_FAST_FREE`).
    pub fast_free: bool,
    /// The packet memory is mapped for the device's DMA.
    pub dma: bool,
    /// It is a virtual function: its physical function may be reset under it.
    pub is_virtual_function: bool,
}

/// The queues of a started port.
#[derive(Debug)]
pub struct Queues {
    /// In order of their numbers.
    pub rx: Vec<RxQueue>,
    /// In order of their numbers.
    pub tx: Vec<TxQueue>,
}

/// An Ethernet port of DPDK's: a NIC, or a virtual device.
///
/// Dropping it stops and closes the device, once its queues are dropped too.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    name: String,
    config: PortConfig,
    capabilities: Capabilities,
    spread: Spread,
    /// By receive queue: packets dropped before the port was last stopped.
    segmented: Vec<u64>,
}

/// How flows are spread over receive queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Fields that are hashed (`RTE_ETH_RSS_*`); 0: none.
    pub(crate) types: u64,
    /// The hash's key.
    pub(crate) key: Vec<u8>,
    /// The queues.
    pub(crate) queues: Vec<u16>,
}

/// What queues need of their port, and keep alive.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) port: u16,
    pub(crate) pool: Arc<Pool>,
    device: Device,
    started: AtomicBool,
}

/// The device behind the port.
#[derive(Debug)]
struct Device {
    handle: *mut sys::rte_device,
    /// Made by `Port::open`, not at start of the EAL: to be removed with the port.
    ours: bool,
    dma: bool,
}

// SAFETY: the handle is used only to unmap and remove the device, which DPDK locks, by the last holder of `Shared`.
unsafe impl Send for Device {}
// SAFETY: as for Send; nothing happens through a shared reference.
unsafe impl Sync for Device {}

impl Port {
    /// Opens a device and sets its queues up. `device` is a PCI address or a vdev with its arguments
    /// (`net_null0,size=64`), which is made unless it exists.
    ///
    /// `net_af_packet` needs `framesz=1664,blocksz=53248` with buffers of 2 KiB: its default frames do not fit behind the
    /// headroom, and frames whose size does not divide the block's are lost.
    ///
    /// # Errors
    /// [`DpdkError::Device`] when there is no such device or driver, [`DpdkError::Queues`] and
    /// [`DpdkError::BufferTooSmall`] when it does not fit the configuration or the pool, [`DpdkError::Flow`] when it cannot be
    /// isolated, [`DpdkError::Call`] for what else the driver refuses.
    pub fn open(_: &Eal, device: &str, pool: &Arc<Pool>, config: &PortConfig) -> Result<Port, DpdkError> {
        let (port, ours) = find_or_probe(device)?;
        // From here on, an error closes the port: `Shared` does so when dropped.
        if !OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return Err(DpdkError::PortInUse(device.into()));
        }
        let mut shared = Shared {
            port,
            pool: Arc::clone(pool),
            device: Device { handle: null_mut(), ours, dma: false },
            started: AtomicBool::new(false),
        };
        let name = name_of(port)?;
        let info = info_of(port)?;
        shared.device.handle = info.device;
        check_fit(&name, &info, pool, config)?;
        shared.device.dma = map_for_dma(&name, info.device, pool)?;
        let (spread, fast_free) = configure(port, &info, config)?;
        set_up_queues(port, &info, pool, config, fast_free)?;
        if let Some(mac) = config.mac {
            let mut address = sys::rte_ether_addr { addr_bytes: mac };
            // SAFETY: the port is open; the address is read during the call.
            check("rte_eth_dev_default_mac_addr_set", unsafe {
                sys::rte_eth_dev_default_mac_addr_set(port, &mut address)
            })?;
        }
        // SAFETY: the driver's name is a static string, or null.
        let driver = unsafe { string(info.driver_name) };
        let capabilities = Capabilities {
            // Drivers of virtual functions are named after those of physical ones (net_e1000_igb_vf, net_ixgbe_vf), or
            // for them (net_iavf).
            is_virtual_function: driver.ends_with("vf"),
            driver,
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            max_mtu: info.max_mtu,
            rss: spread.types != 0,
            fast_free,
            dma: shared.device.dma,
        };
        event::subscribe(port);
        let segmented = vec![0; config.rx_queues.into()];
        let port = Port { shared: Arc::new(shared), name, config: config.clone(), capabilities, spread, segmented };
        if config.isolated {
            // Before the start, which some devices refuse to go back behind; after the queues, without which net_tap forgets it.
            port.isolate()?;
        }
        Ok(port)
    }

    pub(crate) fn spread(&self) -> &Spread {
        &self.spread
    }

    /// DPDK's number of the port.
    pub(crate) fn id(&self) -> u16 {
        self.shared.port
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// DPDK's name of the port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Starts the device. Its queues are for whoever polls them.
    ///
    /// # Errors
    /// [`DpdkError::QueuesInUse`] when it is started already, [`DpdkError::Call`] when the driver refuses.
    pub fn start(&mut self) -> Result<Queues, DpdkError> {
        self.check_idle()?;
        let port = self.id();
        if !self.shared.started.load(Ordering::Acquire) {
            // SAFETY: the port is configured and its queues are set up.
            check("rte_eth_dev_start", unsafe { sys::rte_eth_dev_start(port) })?;
            self.shared.started.store(true, Ordering::Release);
        }
        if self.config.promiscuous {
            // SAFETY: the port is started. Virtual devices that see everything anyway may not know the call.
            match unsafe { sys::rte_eth_promiscuous_enable(port) } {
                ret if -ret == libc::ENOTSUP => 0,
                ret => check("rte_eth_promiscuous_enable", ret)?,
            };
        }
        Ok(Queues {
            rx: (0..self.config.rx_queues)
                .zip(&self.segmented)
                .map(|(q, segmented)| RxQueue::new(Arc::clone(&self.shared), q, self.config.number, *segmented))
                .collect(),
            tx: (0..self.config.tx_queues).map(|q| TxQueue::new(Arc::clone(&self.shared), q)).collect(),
        })
    }

    /// Stops the device; buffers in its queues may stay there until it is closed. Drop its queues first.
    ///
    /// # Errors
    /// [`DpdkError::QueuesInUse`] while a queue lives, [`DpdkError::Call`] when the driver refuses.
    pub fn stop(&mut self) -> Result<(), DpdkError> {
        self.check_idle()?;
        if self.shared.started.swap(false, Ordering::AcqRel) {
            // SAFETY: no queue is left, so nobody polls.
            check("rte_eth_dev_stop", unsafe { sys::rte_eth_dev_stop(self.id()) })?;
        }
        Ok(())
    }

    /// Stops the device and starts it again, which wakes one whose physical function was reset. What was in its queues is
    /// lost, as on the wire; the queues' own counts go on.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start); the port is stopped then, and may be started later.
    pub fn restart(&mut self, queues: Queues) -> Result<Queues, DpdkError> {
        for queue in &queues.rx {
            self.segmented[usize::from(queue.queue())] = queue.segmented();
        }
        drop(queues);
        self.stop()?;
        self.start()
    }

    fn check_idle(&self) -> Result<(), DpdkError> {
        match Arc::strong_count(&self.shared) - 1 {
            0 => Ok(()),
            queues => Err(DpdkError::QueuesInUse { port: self.name.clone(), queues }),
        }
    }

    /// The station address.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the device has none.
    pub fn mac(&self) -> Result<[u8; 6], DpdkError> {
        let mut address = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the port is open; the call fills the address.
        check("rte_eth_macaddr_get", unsafe { sys::rte_eth_macaddr_get(self.id(), &mut address) })?;
        Ok(address.addr_bytes)
    }

    /// Largest packet above Ethernet, in bytes.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the port is gone.
    pub fn mtu(&self) -> Result<u16, DpdkError> {
        let mut mtu = 0;
        // SAFETY: the port is open; the call fills the number.
        check("rte_eth_dev_get_mtu", unsafe { sys::rte_eth_dev_get_mtu(self.id(), &mut mtu) })?;
        Ok(mtu)
    }

    /// State of the link now; does not wait for it to come up.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the device does not know.
    pub fn link(&self) -> Result<Link, DpdkError> {
        let (mut speed, mut up, mut full_duplex) = (0, false, false);
        // SAFETY: the port is open; the call fills the three values.
        check("rte_eth_link_get_nowait", unsafe {
            sys::dpdk_sys_link(self.id(), &mut speed, &mut up, &mut full_duplex)
        })?;
        Ok(Link { up, speed_mbps: (speed != 0 && speed != u32::MAX).then_some(speed), full_duplex })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        event::unsubscribe(self.port);
        // SAFETY: nobody else has the port any more. Stopping and closing may free buffers, which without a registered
        // lcore goes past the caches and is safe from any thread; the pool is still alive.
        unsafe {
            if *self.started.get_mut() {
                sys::rte_eth_dev_stop(self.port);
            }
            sys::rte_eth_dev_close(self.port);
        }
        // Devices behind one IOMMU container share the mapping; the last one out removes it.
        if self.device.dma && self.pool.dma_ports.fetch_sub(1, Ordering::AcqRel) == 1 {
            for_dma_ranges(&self.pool, |address, iova, bytes| {
                // SAFETY: the device is still there, the range was mapped by `map_for_dma`.
                unsafe { sys::rte_dev_dma_unmap(self.device.handle, address.cast(), iova, bytes) }
            });
        }
        if self.device.ours && !self.device.handle.is_null() {
            // SAFETY: the device was probed by `Port::open`, and its port is closed.
            unsafe { sys::rte_dev_remove(self.device.handle) };
        }
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.port);
    }
}

/// The port of a device that exists, or that comes into being now; and whether it is new.
fn find_or_probe(device: &str) -> Result<(u16, bool), DpdkError> {
    let devargs = CString::new(device).map_err(|_| DpdkError::Nul(device.into()))?;
    let name = device.split(',').next().unwrap_or(device);
    let name = CString::new(name).map_err(|_| DpdkError::Nul(device.into()))?;
    if let Some(port) = port_named(&name) {
        return Ok((port, false));
    }
    // SAFETY: a NUL-terminated string.
    let ret = unsafe { sys::rte_dev_probe(devargs.as_ptr()) };
    if ret < 0 {
        return Err(DpdkError::Device { device: device.into(), reason: reason(errno_of(ret)) });
    }
    port_named(&name)
        .or_else(|| first_port_of(&devargs))
        .map(|port| (port, true))
        .ok_or_else(|| DpdkError::Device { device: device.into(), reason: "it has no Ethernet port".into() })
}

fn port_named(name: &CStr) -> Option<u16> {
    let mut port = 0;
    // SAFETY: a NUL-terminated name and a number to fill.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } == 0).then_some(port)
}

/// PCI devices have names that DPDK writes out in full; the iterator knows how.
fn first_port_of(devargs: &CStr) -> Option<u16> {
    // SAFETY: a structure of pointers, all null.
    let mut iterator: sys::rte_dev_iterator = unsafe { std::mem::zeroed() };
    // SAFETY: init prepares the iterator for next; cleanup frees what an unfinished iteration holds.
    unsafe {
        if sys::rte_eth_iterator_init(&mut iterator, devargs.as_ptr()) != 0 {
            return None;
        }
        let port = sys::rte_eth_iterator_next(&mut iterator);
        if u32::from(port) >= sys::RTE_MAX_ETHPORTS {
            return None;
        }
        sys::rte_eth_iterator_cleanup(&mut iterator);
        Some(port)
    }
}

fn name_of(port: u16) -> Result<String, DpdkError> {
    let mut name = [0 as c_char; sys::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: RTE_ETH_NAME_MAX_LEN is the room the call needs; it terminates the name.
    unsafe {
        check("rte_eth_dev_get_name_by_port", sys::rte_eth_dev_get_name_by_port(port, name.as_mut_ptr()))?;
        Ok(string(name.as_ptr()))
    }
}

fn info_of(port: u16) -> Result<sys::rte_eth_dev_info, DpdkError> {
    // SAFETY: a structure of integers and pointers.
    let mut info: sys::rte_eth_dev_info = unsafe { std::mem::zeroed() };
    // SAFETY: the port exists; the call fills the structure.
    check("rte_eth_dev_info_get", unsafe { sys::rte_eth_dev_info_get(port, &mut info) })?;
    Ok(info)
}

/// # Safety
/// `text` is null or NUL-terminated.
pub(crate) unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn check_fit(name: &str, info: &sys::rte_eth_dev_info, pool: &Pool, config: &PortConfig) -> Result<(), DpdkError> {
    for (direction, most, asked) in
        [("receive", info.max_rx_queues, config.rx_queues), ("transmit", info.max_tx_queues, config.tx_queues)]
    {
        if asked == 0 || asked > most {
            return Err(DpdkError::Queues { port: name.into(), direction, most, asked });
        }
    }
    let headroom = pool.headroom_bytes();
    let room = pool.room_bytes();
    if info.min_rx_bufsize > room {
        return Err(DpdkError::BufferTooSmall { port: name.into(), needs: info.min_rx_bufsize, headroom, room });
    }
    Ok(())
}

/// Configures the device; returns how it spreads flows, and whether it frees in bulk.
fn configure(port: u16, info: &sys::rte_eth_dev_info, config: &PortConfig) -> Result<(Spread, bool), DpdkError> {
    // SAFETY: a structure for which all zeroes are the defaults.
    let mut conf: sys::rte_eth_conf = unsafe { std::mem::zeroed() };
    conf.rxmode.mtu = config.mtu.unwrap_or(0).into();
    // Toeplitz with this repeating key gives both directions of a flow the same hash (Woo and Park, 2012).
    let mut key: Vec<u8> = [0x6d, 0x5a].into_iter().cycle().take(info.hash_key_size.into()).collect();
    let types = (sys::DPDK_SYS_RSS_IP | sys::DPDK_SYS_RSS_TCP | sys::DPDK_SYS_RSS_UDP) & info.flow_type_rss_offloads;
    let types = if config.rx_queues > 1 { types } else { 0 };
    if types != 0 {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = types;
        if !key.is_empty() {
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = info.hash_key_size;
        }
    }
    // Every mbuf sent is of one pool, with one reference and one segment: what the offload asks.
    let fast_free = info.tx_offload_capa & sys::DPDK_SYS_TX_OFFLOAD_MBUF_FAST_FREE != 0;
    if fast_free {
        conf.txmode.offloads = sys::DPDK_SYS_TX_OFFLOAD_MBUF_FAST_FREE;
    }
    // SAFETY: the port is stopped; the configuration, its key included, is copied during the call.
    check("rte_eth_dev_configure", unsafe {
        sys::rte_eth_dev_configure(port, config.rx_queues, config.tx_queues, &conf)
    })?;
    Ok((Spread { types, key, queues: (0..config.rx_queues).collect() }, fast_free))
}

fn set_up_queues(
    port: u16,
    info: &sys::rte_eth_dev_info,
    pool: &Pool,
    config: &PortConfig,
    fast_free: bool,
) -> Result<(), DpdkError> {
    let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: the port is configured; the call rounds both numbers to what the device takes.
    check("rte_eth_dev_adjust_nb_rx_tx_desc", unsafe {
        sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx, &mut tx)
    })?;
    // SAFETY: the port exists.
    let socket = unsafe { sys::rte_eth_dev_socket_id(port) } as u32;
    for queue in 0..config.rx_queues {
        // SAFETY: the port is configured with this many queues; the defaults come from its driver; the pool outlives the
        // queue, because `Shared` holds it.
        check("rte_eth_rx_queue_setup", unsafe {
            sys::rte_eth_rx_queue_setup(port, queue, rx, socket, &info.default_rxconf, pool.mempool())
        })?;
    }
    let mut conf = info.default_txconf;
    if fast_free {
        conf.offloads = sys::DPDK_SYS_TX_OFFLOAD_MBUF_FAST_FREE;
    }
    for queue in 0..config.tx_queues {
        // SAFETY: as for the receive queues.
        check("rte_eth_tx_queue_setup", unsafe { sys::rte_eth_tx_queue_setup(port, queue, tx, socket, &conf) })?;
    }
    Ok(())
}
