//! The packet memory as devices see it.

use std::sync::atomic::Ordering;

use dpdk_sys as sys;

use crate::DpdkError;
use crate::error::{check, errno_of};
use crate::pool::Pool;
use crate::port::string;

/// Calls `each` for the ranges of the pool's region that are contiguous for a device, until it returns an error.
pub(crate) fn for_dma_ranges(pool: &Pool, mut each: impl FnMut(*mut u8, u64, usize) -> i32) -> i32 {
    let region = pool.buffers().region();
    // SAFETY: reads what the EAL chose at start.
    if unsafe { sys::rte_eal_iova_mode() } == sys::RTE_IOVA_VA {
        return each(region.as_ptr(), region.as_ptr() as u64, region.length());
    }
    for page in (0..region.length()).step_by(region.page_bytes()) {
        let address = region.as_ptr().wrapping_add(page);
        // SAFETY: the page is mapped; the call looks its address up.
        let iova = unsafe { sys::rte_mem_virt2iova(address.cast()) };
        let ret = each(address, iova, region.page_bytes());
        if ret < 0 {
            return ret;
        }
    }
    0
}

/// Lets the device reach the packet memory. False for devices that do no DMA, or address physical memory directly.
pub(crate) fn map_for_dma(name: &str, device: *mut sys::rte_device, pool: &Pool) -> Result<bool, DpdkError> {
    // SAFETY: a device that was probed.
    let bus = unsafe { string(sys::dpdk_sys_device_bus_name(device)) };
    if bus == "vdev" {
        return Ok(false);
    }
    // SAFETY: reads what the EAL chose at start.
    let physical = unsafe { sys::rte_eal_iova_mode() } != sys::RTE_IOVA_VA;
    if physical && pool.buffers().region().page_bytes() < middlenet_shm::HUGE_PAGE_BYTES {
        return Err(DpdkError::PhysicalAddresses(name.into()));
    }
    let ret = for_dma_ranges(pool, |address, iova, bytes| {
        // SAFETY: the range was registered with rte_extmem_register and stays mapped while the pool lives.
        unsafe { sys::rte_dev_dma_map(device, address.cast(), iova, bytes) }
    });
    if ret < 0 && errno_of(ret) == libc::ENOTSUP {
        return Ok(false);
    }
    check("rte_dev_dma_map", ret)?;
    pool.dma_ports.fetch_add(1, Ordering::AcqRel);
    Ok(true)
}
