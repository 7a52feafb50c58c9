//! The functions of `shim.c`.

use std::ffi::{c_char, c_int};

/// `struct ndpi_detection_module_struct`.
#[repr(C)]
pub(crate) struct Module {
    _opaque: [u8; 0],
}

/// `struct ndpi_flow_struct`.
#[repr(C)]
pub(crate) struct RawFlow {
    _opaque: [u8; 0],
}

/// `struct middlenet_ndpi_class`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Class {
    pub(crate) master: u16,
    pub(crate) app: u16,
    pub(crate) category: u16,
    pub(crate) confidence: u8,
    pub(crate) may_refine: u8,
}

unsafe extern "C" {
    pub(crate) fn middlenet_ndpi_new(with_tor_hosts: c_int) -> *mut Module;
    pub(crate) fn middlenet_ndpi_load(module: *mut Module, path: *const c_char) -> c_int;
    pub(crate) fn middlenet_ndpi_ready(module: *mut Module);
    pub(crate) fn middlenet_ndpi_free(module: *mut Module);
    pub(crate) fn middlenet_ndpi_flow_new() -> *mut RawFlow;
    pub(crate) fn middlenet_ndpi_flow_free(flow: *mut RawFlow);
    pub(crate) fn middlenet_ndpi_kind(packet: *const u8, bytes: u16) -> i32;
    pub(crate) fn middlenet_ndpi_packet(
        module: *mut Module,
        flow: *mut RawFlow,
        packet: *const u8,
        bytes: u16,
        now_ms: u64,
    ) -> Class;
    pub(crate) fn middlenet_ndpi_give_up(module: *mut Module, flow: *mut RawFlow, guess: c_int) -> Class;
    pub(crate) fn middlenet_ndpi_protocols(module: *mut Module) -> u32;
    pub(crate) fn middlenet_ndpi_protocol_name(module: *mut Module, protocol: u16) -> *const c_char;
    pub(crate) fn middlenet_ndpi_categories() -> u32;
    pub(crate) fn middlenet_ndpi_category_name(module: *mut Module, category: u16) -> *const c_char;
}
