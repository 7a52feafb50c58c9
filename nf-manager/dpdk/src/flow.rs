//! Rules by which a NIC tells flows apart (`rte_flow`).

mod request;
mod rule;

pub use rule::{FlowAction, FlowItem, FlowRule, Ip, Ports};

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use dpdk_sys as sys;

use crate::error::{errno_of, reason};
use crate::port::Shared;
use crate::{DpdkError, Port};
use request::Request;

/// A rule at work. Dropping it takes it out of the device; a device that is closed has lost it before.
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
            // forget a rule keeps it until it is closed; there is nobody to tell.
            unsafe { sys::rte_flow_destroy(shared.port, self.handle.as_ptr(), &mut error) };
        }
    }
}

impl Port {
    /// Isolated, the device receives what rules ask for and nothing else, and leaves all other packets to the kernel where it
    /// splits natively. Best before the port is started: some devices refuse it later.
    ///
    /// # Errors
    /// [`DpdkError::Flow`] when the driver cannot.
    pub fn isolate(&self, isolated: bool) -> Result<(), DpdkError> {
        let mut error = no_error();
        // SAFETY: the port is open; the call fills `error`.
        let ret = unsafe { sys::rte_flow_isolate(self.id(), isolated.into(), &mut error) };
        self.flow_result("isolating it", ret, &error)
    }

    /// Asks the device whether it would take a rule, as it is configured and filled now.
    ///
    /// # Errors
    /// [`DpdkError::Flow`] with the driver's words when it would not.
    pub fn validate_flow(&self, rule: &FlowRule) -> Result<(), DpdkError> {
        let request = Request::new(rule);
        let mut error = no_error();
        // SAFETY: the port is open; the request lives through the call, both of its lists are terminated.
        let ret = unsafe {
            sys::rte_flow_validate(self.id(), request.attributes(), request.items(), request.actions(), &mut error)
        };
        self.flow_result("a rule", ret, &error)
    }

    /// Gives the device a rule.
    ///
    /// # Errors
    /// [`DpdkError::Flow`] with the driver's words when it does not take it.
    pub fn create_flow(&self, rule: &FlowRule) -> Result<Flow, DpdkError> {
        let request = Request::new(rule);
        let mut error = no_error();
        // SAFETY: as for `validate_flow`.
        let handle = unsafe {
            sys::rte_flow_create(self.id(), request.attributes(), request.items(), request.actions(), &mut error)
        };
        match NonNull::new(handle) {
            Some(handle) => Ok(Flow { handle, port: Arc::downgrade(self.shared()) }),
            None => self.flow_result("a rule", -1, &error).and(Err(self.flow_refusal("a rule", libc::EINVAL, &error))),
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
