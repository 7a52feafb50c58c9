//! Packets that a NIC is asked for (`rte_flow`).

mod request;

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use dpdk_sys as sys;
use middlenet_steer::nic;

use crate::error::{errno_of, reason};
use crate::port::Shared;
use crate::{DpdkError, Port};
use request::Request;

/// A request that a device has taken. Dropping it takes it back; a device that is closed has lost it before.
#[derive(Debug)]
pub struct Flow {
    handle: NonNull<sys::rte_flow>,
    port: Weak<Shared>,
}

// SAFETY: the handle is only passed to rte_flow_destroy, for which DPDK takes a lock of the port where its driver has none.
unsafe impl Send for Flow {}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Some(shared) = self.port.upgrade() {
            let mut error = no_error();
            // SAFETY: the port is open, the handle came from its rte_flow_create and is used no more. A device that fails to
            // forget a flow keeps it until it is closed; there is nobody to tell.
            unsafe { sys::rte_flow_destroy(shared.port, self.handle.as_ptr(), &mut error) };
        }
    }
}

impl Port {
    /// From now on the device receives what flows ask for and nothing else, and leaves all other packets to the kernel where it
    /// splits natively.
    pub(crate) fn isolate(&self) -> Result<(), DpdkError> {
        let mut error = no_error();
        // SAFETY: the port is open; the call fills `error`.
        let ret = unsafe { sys::rte_flow_isolate(self.id(), 1, &mut error) };
        self.flow_result("to leave to the kernel what no rule asks for", ret, &error)
    }

    /// Asks the device for packets. It must be started, and forgets what it was asked when it is stopped: drop all flows before that,
    /// and create them anew.
    ///
    /// # Errors
    /// [`DpdkError::Flow`] with the driver's words when it does not take it.
    pub fn create_flow(&self, flow: &nic::Flow) -> Result<Flow, DpdkError> {
        let request = Request::new(flow, self.spread());
        let mut error = no_error();
        // SAFETY: the port is open; the request lives through the call, both of its lists are terminated.
        let handle = unsafe {
            sys::rte_flow_create(self.id(), request.attributes(), request.items(), request.actions(), &mut error)
        };
        match NonNull::new(handle) {
            Some(handle) => Ok(Flow { handle, port: Arc::downgrade(self.shared()) }),
            None => self.flow_result("a flow", -1, &error).and(Err(self.flow_refusal("a flow", libc::EINVAL, &error))),
        }
    }

    fn flow_result(&self, what: &'static str, ret: c_int, error: &sys::rte_flow_error) -> Result<(), DpdkError> {
        if ret >= 0 { Ok(()) } else { Err(self.flow_refusal(what, errno_of(ret), error)) }
    }

    fn flow_refusal(&self, what: &'static str, errno: c_int, error: &sys::rte_flow_error) -> DpdkError {
        let message = if error.message.is_null() {
            reason(errno)
        } else {
            // SAFETY: a driver's message is a static string, NUL-terminated.
            unsafe { CStr::from_ptr(error.message) }.to_string_lossy().into_owned()
        };
        DpdkError::Flow { port: self.name().to_owned(), what, message, errno }
    }
}

fn no_error() -> sys::rte_flow_error {
    sys::rte_flow_error { type_: 0, cause: std::ptr::null(), message: std::ptr::null() }
}
