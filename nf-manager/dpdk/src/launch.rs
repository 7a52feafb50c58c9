use std::any::Any;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use crate::eal::{Eal, Lcore};
use crate::{DpdkError, error};

/// Proof of running on an EAL lcore. It cannot leave its thread.
///
/// mempool caches are per lcore and unlocked; whoever holds a `Worker` is the only user of its lcore's.
#[derive(Debug)]
pub struct Worker {
    lcore: u32,
    /// Not `Send`, not `Sync`: the proof holds on this thread.
    here: PhantomData<*const ()>,
}

impl Worker {
    /// The token of the calling thread, which must be an EAL lcore's.
    pub(crate) fn here() -> Worker {
        // SAFETY: reads a thread-local integer.
        let lcore = unsafe { dpdk_sys::rte_lcore_id() };
        debug_assert!(lcore < dpdk_sys::RTE_MAX_LCORE, "this thread is no EAL lcore");
        Worker { lcore, here: PhantomData }
    }

    /// Number of the lcore.
    pub fn lcore(&self) -> u32 {
        self.lcore
    }
}

/// What runs on a worker lcore.
#[derive(Debug)]
pub struct Launched<T> {
    lcore: u32,
    outcome: mpsc::Receiver<Result<T, Box<dyn Any + Send>>>,
}

impl<T> Launched<T> {
    /// Number of the lcore it runs on.
    pub fn lcore(&self) -> u32 {
        self.lcore
    }

    /// Waits until the closure returns. Sleeps meanwhile.
    ///
    /// # Errors
    /// The panic, when it panicked; as `std::thread::JoinHandle::join`.
    pub fn join(self) -> std::thread::Result<T> {
        let outcome = self.outcome.recv().unwrap_or_else(|_| Err(Box::new("the lcore went away")));
        // SAFETY: `lcore` is a worker lcore. The closure has returned, so the lcore is about to be idle: this spins for
        // moments, where waiting here for the closure would spin as long as it runs.
        unsafe { dpdk_sys::rte_eal_wait_lcore(self.lcore) };
        outcome
    }
}

struct Job<F, T> {
    run: F,
    outcome: mpsc::Sender<Result<T, Box<dyn Any + Send>>>,
}

unsafe extern "C" fn trampoline<F, T>(job: *mut c_void) -> c_int
where
    F: FnOnce(&Worker) -> T,
{
    // SAFETY: `launch` made this pointer with Box::into_raw for exactly this call.
    let job = unsafe { Box::from_raw(job.cast::<Job<F, T>>()) };
    let Job { run, outcome } = *job;
    let worker = Worker::here();
    // Unwinding into C would abort the process; whoever joins gets the panic instead.
    let result = catch_unwind(AssertUnwindSafe(|| run(&worker)));
    // Nobody may be waiting any more.
    let _ = outcome.send(result);
    0
}

impl Eal {
    /// Runs `run` on the worker lcore `lcore`.
    ///
    /// # Errors
    /// [`DpdkError::LcoreBusy`] when it runs something already, [`DpdkError::NoSuchLcore`] when it is not one of
    /// [`workers`](Eal::workers).
    pub fn launch<F, T>(&self, lcore: Lcore, run: F) -> Result<Launched<T>, DpdkError>
    where
        F: FnOnce(&Worker) -> T + Send + 'static,
        T: Send + 'static,
    {
        if !self.workers().contains(&lcore) {
            return Err(DpdkError::NoSuchLcore(lcore.id));
        }
        let (sender, outcome) = mpsc::channel();
        let job = Box::into_raw(Box::new(Job { run, outcome: sender }));
        // SAFETY: the trampoline is made for the type of the job; the job is Send + 'static, and ownership passes to the
        // lcore if the launch succeeds. `Eal` is not Send, so only the main lcore launches.
        let ret = unsafe { dpdk_sys::rte_eal_remote_launch(Some(trampoline::<F, T>), job.cast(), lcore.id) };
        if ret < 0 {
            // SAFETY: the launch failed, so nobody else has the job.
            drop(unsafe { Box::from_raw(job) });
            return Err(match -ret {
                libc::EBUSY => DpdkError::LcoreBusy(lcore.id),
                errno => error::failed("rte_eal_remote_launch", errno),
            });
        }
        Ok(Launched { lcore: lcore.id, outcome })
    }

    /// The token of the main lcore, for setting up and for tests. `Eal` does not leave that thread.
    pub fn main_worker(&self) -> Worker {
        Worker::here()
    }
}
