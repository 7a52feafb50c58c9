//! The time-stamp counter, the clock of the data threads.

use crate::Eal;

/// Cycles now. Counts at a constant rate on every processor that DPDK supports.
#[inline(always)]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: rdtsc reads a counter and exists on every x86-64 processor.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // SAFETY: reads the architecture's cycle counter.
        unsafe { dpdk_sys::rte_rdtsc() }
    }
}

/// Cycles per second. The EAL measures it when it starts, hence the argument.
pub fn hz(_: &Eal) -> u64 {
    // SAFETY: reads a number that the EAL has set.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}
