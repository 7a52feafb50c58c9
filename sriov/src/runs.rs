//! What runs on one host know of one another.

use std::any::Any;

use crate::{PciAddress, SriovError};

/// The other runs on this host. Each uses VFs of its own, but the PF, its VFs' number and its settings are of all.
pub trait Runs {
    /// Waits until no other run changes these PFs or their VFs; none does until what is returned goes. The addresses are in
    /// order, and each is there once.
    ///
    /// # Errors
    /// [`SriovError::NoTurn`] when that takes too long.
    fn turn(&self, pfs: &[PciAddress]) -> Result<Box<dyn Any>, SriovError>;

    /// Which other run has a PCI function: `edge (process 12)`.
    fn other(&self, function: PciAddress) -> Option<String>;
}

impl<R: Runs + ?Sized> Runs for &R {
    fn turn(&self, pfs: &[PciAddress]) -> Result<Box<dyn Any>, SriovError> {
        (**self).turn(pfs)
    }

    fn other(&self, function: PciAddress) -> Option<String> {
        (**self).other(function)
    }
}
