//! Which cases there are, and what they are called.

/// Requests under way at a time.
const CONCURRENCIES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const QUICK_CONCURRENCIES: [usize; 4] = [1, 8, 64, 512];

/// Whose middlebox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// Ours, functions called by the broker.
    Inline,
    /// Ours, functions as processes behind a sockmap.
    Skmsg,
    /// Ours, functions as processes behind rings.
    Ring,
    /// nginx, both functions in one process.
    Nginx,
    /// HAProxy, likewise.
    Haproxy,
    /// An nginx for each function, on a Linux bridge.
    KernelSwitch,
}

impl Subject {
    /// In the order of measuring, reference first.
    pub(super) const ALL: [Self; 6] =
        [Self::Nginx, Self::Inline, Self::Skmsg, Self::Ring, Self::Haproxy, Self::KernelSwitch];
    /// What the others are compared with.
    pub(super) const REFERENCE: Self = Self::Nginx;

    /// Whether it is MiddleNet.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Inline | Self::Skmsg | Self::Ring)
    }

    /// What a case's name begins with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Inline => "inline/proxy+rewrite",
            Self::Skmsg => "skmsg/proxy+rewrite",
            Self::Ring => "ring/proxy+rewrite",
            Self::Nginx => "peer/nginx",
            Self::Haproxy => "peer/haproxy",
            Self::KernelSwitch => "peer/kvswitch",
        }
    }

    /// In a legend.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Skmsg => "skmsg",
            Self::Ring => "ring",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::KernelSwitch => "bridge + nginx per function",
        }
    }
}

/// Whose requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// `wrk`, connections kept.
    Wrk,
    /// `ab -k`, connections kept.
    Ab,
    /// `ab`, a connection for every request.
    AbClose,
}

impl Load {
    pub(super) fn all(quick: bool) -> &'static [Self] {
        if quick { &[Self::Wrk] } else { &[Self::Wrk, Self::Ab, Self::AbClose] }
    }

    /// Between the prefix and the concurrency.
    pub(super) fn infix(self) -> &'static str {
        match self {
            Self::Wrk => "",
            Self::Ab => "/ab",
            Self::AbClose => "/ab-close",
        }
    }
}

pub(super) fn concurrencies(quick: bool) -> &'static [usize] {
    if quick { &QUICK_CONCURRENCIES } else { &CONCURRENCIES }
}

/// A case's name.
pub(super) fn name(subject: Subject, load: Load, concurrency: usize) -> String {
    format!("{}{}/c{concurrency}", subject.prefix(), load.infix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_results_compare_by() {
        assert_eq!(name(Subject::Inline, Load::Wrk, 1), "inline/proxy+rewrite/c1");
        assert_eq!(name(Subject::Skmsg, Load::Ab, 64), "skmsg/proxy+rewrite/ab/c64");
        assert_eq!(name(Subject::Ring, Load::AbClose, 512), "ring/proxy+rewrite/ab-close/c512");
        assert_eq!(name(Subject::KernelSwitch, Load::Wrk, 8), "peer/kvswitch/c8");
        assert_eq!(name(Subject::Haproxy, Load::Wrk, 8), "peer/haproxy/c8");
    }

    #[test]
    fn quick_cases_are_cases() {
        assert!(concurrencies(true).iter().all(|c| concurrencies(false).contains(c)));
        assert!(Load::all(true).iter().all(|l| Load::all(false).contains(l)));
    }
}
