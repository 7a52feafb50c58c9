//! The host this runs on.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::discover::read_filters;
use crate::{Filters, Host, Link, VfSetting, netlink};

/// The host this runs on, in the network namespace of the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linux;

impl Host for Linux {
    fn root(&self) -> &Path {
        Path::new("/")
    }

    fn links(&self) -> io::Result<Vec<Link>> {
        netlink::links()
    }

    fn filters(&self, interface: &str) -> Filters {
        let output =
            Command::new("ethtool").args(["-k", interface]).stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.map(|o| read_filters(&String::from_utf8_lossy(&o.stdout))).unwrap_or_default()
    }

    fn is_open(&self, device: &Path) -> bool {
        // A group of VFIO has one opener at a time. Opening it does nothing to the devices in it.
        let error = OpenOptions::new().read(true).write(true).open(device).err();
        error.is_some_and(|e| e.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32))
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    }

    fn set_vf(&self, pf_index: u32, vf: u16, setting: VfSetting) -> io::Result<()> {
        netlink::change(netlink::vf_request(pf_index, vf, setting))
    }

    fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        netlink::change(netlink::up_request(index, up))
    }

    fn set_address(&self, index: u32, address: IpAddr, prefix: u8, present: bool) -> io::Result<()> {
        netlink::change(netlink::address_request(index, address, prefix, present))
    }

    fn ethtool(&self, arguments: &[String]) -> io::Result<String> {
        let output = Command::new("ethtool").args(arguments).stdin(Stdio::null()).output()?;
        Ok([output.stdout, output.stderr].iter().map(|bytes| String::from_utf8_lossy(bytes)).collect())
    }

    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(50));
    }
}
