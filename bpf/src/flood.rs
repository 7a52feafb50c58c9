//! Traffic for measurements, made inside the kernel as fast as a core can.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags};

use crate::log;
use crate::skeletons::xdp_flood::XdpFloodSkelBuilder;
use crate::{Error, Result};

/// The name of the program, as `bpftool prog` shows it.
const PROGRAM: &str = "xdp_flood";

/// Frames that the kernel makes before it hands them on together.
const GROUP_PKTS: u32 = 64;

/// Sends frames out of an interface without sockets and without `sk_buff`s, as a forwarding driver would: each is made in
/// place and handed to the interface's `ndo_xdp_xmit`.
///
/// Of a veth, the peer must have an XDP program, or nothing takes the frames. Those that find its ring full are lost.
#[derive(Debug)]
pub struct Flood {
    program: OwnedFd,
}

impl Flood {
    /// Bytes of a frame's beginning that differ from frame to frame. No frame is shorter.
    pub const HEAD_BYTES: usize = 64;

    /// Frames with these heads in turn, to leave by an interface of the caller's network namespace. The number of heads is a
    /// power of two.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] and [`Error::Load`] when the kernel refuses the program; [`Error::Trial`] when the number of
    /// heads is no power of two.
    pub fn new(ifindex: u32, heads: &[[u8; Self::HEAD_BYTES]]) -> Result<Self> {
        let count = u32::try_from(heads.len()).ok().filter(|count| count.is_power_of_two()).ok_or(Error::Trial {
            bytes: Self::HEAD_BYTES,
            source: io::Error::new(io::ErrorKind::InvalidInput, "the number of heads is no power of two"),
        })?;
        let (loaded, log) = log::listen(|| {
            let mut object = MaybeUninit::uninit();
            let mut open = XdpFloodSkelBuilder::default().open(&mut object)?;
            if let Some(constants) = open.maps.rodata_data.as_deref_mut() {
                (constants.ifindex, constants.mask) = (ifindex, count - 1);
            }
            open.maps.heads.set_max_entries(count)?;
            let skeleton = open.load()?;
            for (slot, head) in (0_u32..).zip(heads) {
                skeleton.maps.heads.update(&slot.to_ne_bytes(), head, MapFlags::ANY)?;
            }
            Ok(skeleton.progs.xdp_flood.as_fd().try_clone_to_owned()?)
        });
        let program = loaded.map_err(|error: libbpf_rs::Error| Error::of_load(PROGRAM, &error, log))?;
        Ok(Self { program })
    }

    /// Makes and sends so many frames of one length, and returns when all have been sent or lost. The calling thread must be
    /// in the interface's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Trial`] when the kernel refuses: it needs Linux 5.18, `CAP_NET_ADMIN`, and frames that fit a page.
    pub fn send(&self, frame_bytes: usize, frames: u32) -> Result<()> {
        let frame = vec![0_u8; frame_bytes.max(Self::HEAD_BYTES)];
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as u32,
            repeat: frames.max(1) as i32,
            flags: libbpf_sys::BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: GROUP_PKTS,
            ..Default::default()
        };
        // SAFETY: `frame` outlives the call and its size is given; the program's descriptor is borrowed, hence open.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &mut options) };
        match result {
            0 => Ok(()),
            code => Err(Error::Trial { bytes: frame.len(), source: io::Error::from_raw_os_error(-code) }),
        }
    }
}
