//! The other runs on this host, as far as virtual functions are theirs too.

use middlenet_sriov::{PciAddress, Runs, SriovError};
use std::any::Any;
use std::time::Duration;

use crate::claim::{ClaimError, ClaimedDevice, Claims};
use crate::run_folder;
use crate::supervisor::log;

/// How long a run is waited for: it may have to wait for the links and users of several virtual functions itself.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// The runs that have claims, but for this one.
#[derive(Debug)]
pub struct OtherRuns {
    /// The name of this run.
    pub run: String,
}

impl Runs for OtherRuns {
    fn turn(&self, pfs: &[PciAddress]) -> Result<Box<dyn Any>, SriovError> {
        let devices: Vec<ClaimedDevice> = pfs.iter().map(|pf| ClaimedDevice::changes_of_vfs(*pf)).collect();
        let folder = run_folder::path();
        let waiting = |by: &str| log(format_args!("waiting for the run {by}, which changes virtual functions"));
        match Claims::wait(&folder, &self.run, &devices, TURN_LIMIT, waiting) {
            Ok(claims) => Ok(Box::new(claims)),
            Err(ClaimError::Taken { by, .. }) => Err(SriovError::NoTurn(by)),
            Err(e @ ClaimError::Io { .. }) => Err(SriovError::NoTurn(e.to_string())),
        }
    }

    fn other(&self, function: PciAddress) -> Option<String> {
        Claims::other_holder(&run_folder::path(), &self.run, &ClaimedDevice::pci(function))
    }
}
