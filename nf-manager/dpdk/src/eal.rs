use std::ffi::{CString, c_char, c_int};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

use crate::{DpdkError, error};

#[cfg(test)]
mod tests;

/// Set by the first start that succeeds and never cleared: DPDK does not start twice, not even after its cleanup.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The memory DPDK takes for itself: mbuf headers, rings, device state. Packet bytes lie in the domain's regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages, taken as needed, at most `limit_mib` MiB when that is given.
    HugePages {
        /// Upper limit in MiB; `None`: what the host has.
        limit_mib: Option<u32>,
    },
    /// Ordinary pages, `mib` MiB of address space. Needs no privilege; enough for null, pcap and af_packet ports.
    NoHuge {
        /// Size in MiB.
        mib: u32,
    },
}

/// From which severity on DPDK writes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Failures and what may become one.
    Warning,
    /// Notices too, DPDK's own default.
    Notice,
    /// Everything that is said at start-up.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warning => "warning",
            LogLevel::Notice => "notice",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// How to start the EAL.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Name of the program in DPDK's messages.
    pub program: String,
    /// CPUs on which the main lcore, the calling thread, may float.
    pub main_cpus: Vec<u32>,
    /// One worker lcore per entry, pinned to that CPU. Naming a CPU twice makes two lcores share it.
    pub worker_cpus: Vec<u32>,
    /// DPDK's own memory.
    pub memory: Memory,
    /// Leave no files behind; false only for devices that share memory by name (`virtio_user`).
    pub in_memory: bool,
    /// PCI addresses of the devices DPDK may touch. None: the PCI bus is not even scanned.
    pub pci: Vec<String>,
    /// Virtual devices to make at start, as `net_null0,size=64`. [`Port::open`](crate::Port::open) makes them as well.
    pub vdevs: Vec<String>,
    /// What DPDK says on standard error.
    pub log_level: LogLevel,
}

impl Default for EalConfig {
    /// Main lcore on CPU 0, no worker, huge pages, in memory, no device, errors only.
    fn default() -> Self {
        EalConfig {
            program: "middlenet".into(),
            main_cpus: vec![0],
            worker_cpus: Vec::new(),
            memory: Memory::HugePages { limit_mib: None },
            in_memory: true,
            pci: Vec::new(),
            vdevs: Vec::new(),
            log_level: LogLevel::Error,
        }
    }
}

impl EalConfig {
    /// The arguments as DPDK's command line has them, the program's name first.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![self.program.clone(), "--lcores".into(), self.lcores()];
        match (self.in_memory, self.memory) {
            (true, Memory::HugePages { .. }) => arguments.push("--in-memory".into()),
            // DPDK refuses --in-memory with --no-huge; without shared configuration it leaves no file either.
            (true, Memory::NoHuge { .. }) => arguments.push("--no-shconf".into()),
            (false, _) => {}
        }
        match self.memory {
            Memory::HugePages { limit_mib: None } => {}
            Memory::HugePages { limit_mib: Some(mib) } => arguments.push(format!("--socket-limit={mib}")),
            Memory::NoHuge { mib } => arguments.extend(["--no-huge".into(), "-m".into(), mib.to_string()]),
        }
        if self.pci.is_empty() {
            // No device does DMA: virtual addresses serve, and the physical ones need not be found out.
            arguments.extend(["--no-pci".into(), "--iova-mode=va".into()]);
        }
        for address in &self.pci {
            arguments.extend(["-a".into(), address.clone()]);
        }
        for vdev in &self.vdevs {
            arguments.push(format!("--vdev={vdev}"));
        }
        // The runtime has a control socket of its own.
        arguments.push("--no-telemetry".into());
        arguments.push(format!("--log-level={}", self.log_level.as_str()));
        arguments
    }

    /// `0@(0,1),1@0,2@1`: lcore 0 floats over the main CPUs, lcores 1.. are pinned.
    fn lcores(&self) -> String {
        let main: Vec<String> = self.main_cpus.iter().map(u32::to_string).collect();
        let mut map = format!("0@({})", if main.is_empty() { "0".into() } else { main.join(",") });
        for (lcore, cpu) in self.worker_cpus.iter().enumerate() {
            map.push_str(&format!(",{}@{cpu}", lcore + 1));
        }
        map
    }
}

/// A worker lcore: a thread of the EAL's, pinned to a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lcore {
    /// Its number, from 1; 0 is the main lcore.
    pub id: u32,
    /// The CPU it is pinned to.
    pub cpu: u32,
}

/// DPDK's environment abstraction layer, running.
///
/// It stays on the thread that started it, the main lcore. Pools and ports keep the EAL alive; when the last of them is
/// gone, it is cleaned up.
#[derive(Debug)]
pub struct Eal {
    alive: Arc<Alive>,
    workers: Vec<Lcore>,
    /// Not `Send`: launching is the main lcore's.
    here: PhantomData<*const ()>,
}

/// Held by whatever needs the EAL.
#[derive(Debug)]
pub(crate) struct Alive {
    main: ThreadId,
    workers: Vec<Lcore>,
    /// What argv points at; DPDK keeps pointers into it.
    _arguments: Vec<CString>,
}

impl Eal {
    /// Starts the EAL and its worker threads. The calling thread becomes the main lcore and is bound to
    /// [`main_cpus`](EalConfig::main_cpus); threads it starts later inherit that.
    ///
    /// # Errors
    /// [`DpdkError::AlreadyInitialised`] after a start that succeeded, [`DpdkError::Init`] when DPDK refuses: no huge
    /// pages, a CPU or device that is not there.
    pub fn init(config: &EalConfig) -> Result<Eal, DpdkError> {
        let arguments = config.arguments();
        let strings = arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()).map_err(|_| DpdkError::Nul(argument.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(DpdkError::AlreadyInitialised);
        }
        // DPDK permutes the array and may overrun a missing terminator.
        let mut argv: Vec<*mut c_char> = strings.iter().map(|s| s.as_ptr().cast_mut()).collect();
        argv.push(std::ptr::null_mut());
        // SAFETY: argv holds argc NUL-terminated strings and a null; they live in `Alive` as long as the EAL.
        // The log stream is libc's stderr, which is open for the life of the process; without it messages also go to
        // syslog. STARTED makes this the only call.
        let ret = unsafe {
            dpdk_sys::rte_openlog_stream(dpdk_sys::stderr);
            dpdk_sys::rte_eal_init(strings.len() as c_int, argv.as_mut_ptr())
        };
        if ret < 0 {
            let errno = error::errno_of(ret);
            STARTED.store(errno == libc::EALREADY, Ordering::SeqCst);
            return Err(DpdkError::Init { arguments: arguments[1..].join(" "), reason: error::reason(errno) });
        }
        let workers: Vec<Lcore> = config.worker_cpus.iter().zip(1..).map(|(&cpu, id)| Lcore { id, cpu }).collect();
        let alive = Alive { main: thread::current().id(), workers: workers.clone(), _arguments: strings };
        Ok(Eal { alive: Arc::new(alive), workers, here: PhantomData })
    }

    /// The worker lcores, in the order of [`worker_cpus`](EalConfig::worker_cpus).
    pub fn workers(&self) -> &[Lcore] {
        &self.workers
    }

    /// Whether DPDK's own memory is on huge pages.
    pub fn has_huge_pages(&self) -> bool {
        // SAFETY: reads a flag that rte_eal_init has set.
        unsafe { dpdk_sys::rte_eal_has_hugepages() != 0 }
    }

    pub(crate) fn alive(&self) -> Arc<Alive> {
        Arc::clone(&self.alive)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // SAFETY: reads the state of lcores that exist.
        let idle = |lcore: &Lcore| unsafe { dpdk_sys::rte_eal_get_lcore_state(lcore.id) } == dpdk_sys::WAIT;
        // Taking memory from under a running worker, or from a worker itself, would be worse than leaving it to the
        // process's end; nothing outlives that.
        if thread::current().id() == self.main && self.workers.iter().all(idle) {
            // SAFETY: no pool, port or queue is left, since each holds this; no worker runs.
            unsafe { dpdk_sys::rte_eal_cleanup() };
        }
    }
}
