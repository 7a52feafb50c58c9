//! What the driver of an interface can do with XDP.

use std::mem::size_of;

use crate::log;

/// `NETDEV_XDP_ACT_NDO_XMIT` in linux/netdev.h.
const NDO_XMIT: u64 = 1 << 2;

/// Whether an interface sends packets that programs on other interfaces redirect to it. That of a veth depends on its peer: it does
/// while the peer has an XDP program or GRO on.
///
/// `false` where the kernel does not say, which it does from 6.3 on.
pub fn takes_redirects(ifindex: u32) -> bool {
    let Ok(device) = i32::try_from(ifindex) else { return false };
    let mut query =
        libbpf_sys::bpf_xdp_query_opts { sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    let (result, _) = log::listen(|| {
        // SAFETY: `query` outlives the call and says its own size.
        unsafe { libbpf_sys::bpf_xdp_query(device, 0, &mut query) }
    });
    result >= 0 && query.feature_flags & NDO_XMIT != 0
}
