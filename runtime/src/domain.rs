//! The user that the functions of a run share, and nobody else: each run is a security domain of its own.

use serde::{Deserialize, Serialize};
use std::fs;

use crate::claim::{ClaimError, ClaimedDevice, Claims};
use crate::plan::{DomainUser, Plan};
use crate::run_folder;

/// Users that no distribution gives to anybody: from 0x70000000 on, up to where numbers turn negative for careless programs
/// (see "Users, Groups, UIDs and GIDs on systemd Systems").
const RANGE: Range = Range { first: 0x7000_0000, count: 0x0fff_ffff };
/// Where a container has no such numbers: above people, below what systemd gives out.
const NARROW: Range = Range { first: 40_000, count: 20_000 };

/// Numbers that are tried: as many runs would have to be there, or to be unlucky.
const TRIES: usize = 1000;

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl Ids {
    /// A user with the group of the same number.
    pub const fn alike(id: u32) -> Self {
        Self { uid: id, gid: id }
    }
}

/// The user of a run, which no other run has as long as this lives.
#[derive(Debug, Default)]
pub struct Domain {
    /// Nothing where this is not root: then functions run under the user who started them.
    pub user: Option<Ids>,
    _claim: Claims,
}

/// Why the run's functions have no user to run under.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// Another run has it.
    #[error("{0}: their functions could reach each other's memory")]
    Shared(ClaimError),
    /// A container with few users.
    #[error("this user namespace has no number to spare for the functions of a run")]
    NoNumber,
}

impl DomainError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::Shared(_) => "give each run a user of its own, or remove `user` from the manifest".into(),
            Self::NoNumber => "name one in the manifest: `user: middlenet`".into(),
        }
    }
}

/// Takes the user of a run's functions.
///
/// # Errors
/// [`DomainError`]; nothing has been changed.
pub fn settle(plan: &mut Plan) -> Result<Domain, DomainError> {
    let own = nix::unistd::geteuid();
    if !own.is_root() {
        if let DomainUser::Given(ids) = plan.runtime.user
            && ids.uid != own.as_raw()
        {
            let note = format!("functions run under the user {own}, not under {}: only root may choose", ids.uid);
            plan.runtime.notes.push(note);
        }
        return Ok(Domain::default());
    }
    let take = |ids: Ids| match Claims::take(&run_folder::path(), &plan.name, &[ClaimedDevice::user(ids.uid)]) {
        Ok(claim) => Ok(Domain { user: Some(ids), _claim: claim }),
        Err(e @ ClaimError::Taken { .. }) => Err(DomainError::Shared(e)),
        // Without a folder for claims there are no other runs but over captures.
        Err(ClaimError::Io { .. }) => Ok(Domain { user: Some(ids), _claim: Claims::default() }),
    };
    match plan.runtime.user {
        DomainUser::Given(ids) => match take(ids) {
            // The same run once more: that its name is taken says more than that its user is.
            Err(DomainError::Shared(ClaimError::Taken { by, .. })) if by.starts_with(&format!("`{}` ", plan.name)) => {
                Ok(Domain { user: Some(ids), _claim: Claims::default() })
            }
            taken => taken,
        },
        DomainUser::Own => {
            let range = range_here().ok_or(DomainError::NoNumber)?;
            range
                .numbers(&plan.name)
                .take(TRIES)
                .find_map(|uid| take(Ids::alike(uid)).ok())
                .ok_or(DomainError::NoNumber)
        }
    }
}

/// The user under which functions of other people are asked what they are, before any run of theirs.
pub fn of_descriptions() -> Option<Ids> {
    let own = nix::unistd::geteuid();
    // No run's own number is the first one.
    range_here().filter(|_| own.is_root()).map(|range| Ids::alike(range.first))
}

/// Whether root finds a number for each run here.
pub fn has_numbers() -> bool {
    range_here().is_some()
}

fn range_here() -> Option<Range> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    [RANGE, NARROW].into_iter().find(|range| range.is_mapped(&map))
}

/// Numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Range {
    /// The numbers of a run, the one it takes first: the same whenever it is started, so that files that belong to it stay its.
    fn numbers(self, name: &str) -> impl Iterator<Item = u32> {
        // FNV-1a.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let spare = u64::from(self.count) - 1;
        (0..spare).map(move |step| self.first + 1 + ((hash % spare + step) % spare) as u32)
    }

    /// Whether all of it exists in a user namespace: lines of first, first outside, count.
    fn is_mapped(self, map: &str) -> bool {
        let end = u64::from(self.first) + u64::from(self.count);
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
            let (first, _, count) =
                (numbers.next().unwrap_or(u64::MAX), numbers.next(), numbers.next().unwrap_or_default());
            first <= u64::from(self.first) && first.saturating_add(count) >= end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_numbers_of_its_own_and_always_the_same() {
        let first = |name: &str| RANGE.numbers(name).next().unwrap();
        assert_eq!(first("edge"), first("edge"));
        let mut all: Vec<u32> = (0..5000).map(|i| first(&format!("run-{i}"))).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5000, "5000 of 268 million numbers");
        for range in [RANGE, NARROW] {
            for uid in range.numbers("edge").take(30_000) {
                assert!(uid > range.first && uid < range.first + range.count);
            }
        }
        let row: Vec<u32> = NARROW.numbers("edge").collect();
        let unique: std::collections::BTreeSet<u32> = row.iter().copied().collect();
        assert_eq!((row.len(), unique.len()), (19_999, 19_999));
    }

    #[test]
    fn containers_have_fewer_numbers() {
        let host = "         0          0 4294967295\n";
        let container = "0 100000 65536\n";
        let tiny = "0 1000 1\n";
        assert!(RANGE.is_mapped(host) && NARROW.is_mapped(host));
        assert!(!RANGE.is_mapped(container) && NARROW.is_mapped(container));
        assert!(!RANGE.is_mapped(tiny) && !NARROW.is_mapped(tiny) && !NARROW.is_mapped(""));
    }
}
