//! What the kernel has to keep function processes to themselves.

use super::{Finding, Host, Severity};

/// The version of landlock that scopes abstract sockets and signals.
const WHOLE: i32 = 6;

pub(super) fn findings(host: &Host) -> [Finding; 3] {
    [users(host), landlock(host), seccomp(host)]
}

fn users(host: &Host) -> Finding {
    let subject = "users of runs";
    if !host.is_root {
        let cost = "functions run under your user: only seccomp and landlock keep them from your files and processes";
        return Finding::bad(Severity::Costs, subject, "not root", cost, "run middlenet with sudo");
    }
    if !host.has_run_users {
        let cost = "runs with function processes start only if their manifests name a user";
        let remedy = "map more users into this namespace, or `user: NAME` in each manifest";
        return Finding::bad(Severity::Costs, subject, "this user namespace has no numbers to spare", cost, remedy);
    }
    Finding::ok(subject, "each run's functions have a user of their own")
}

fn landlock(host: &Host) -> Finding {
    match host.landlock {
        0 => {
            let cost = "functions can open what their user can: files that all may read";
            let remedy = "use a kernel from 5.13 on with CONFIG_SECURITY_LANDLOCK, and `landlock` in its `lsm=`";
            Finding::bad(Severity::Costs, "landlock", "the kernel does not have it", cost, remedy)
        }
        version if version < WHOLE => {
            let cost = "no loss where seccomp is there, which refuses sockets and signals to others as well";
            let found = format!("version {version}, which does not know abstract sockets and signals");
            Finding::bad(Severity::Costs, "landlock", found, cost, "use a kernel from 6.12 on")
        }
        version => {
            Finding::ok("landlock", format!("version {version}: functions see no files but those of the manifest"))
        }
    }
}

fn seccomp(host: &Host) -> Finding {
    if host.has_seccomp {
        return Finding::ok("seccomp", "functions make only the system calls they need");
    }
    let cost = "functions can open sockets, start processes, and punch holes into the memory of their data plane";
    Finding::bad(
        Severity::Costs,
        "seccomp",
        "the kernel does not filter",
        cost,
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}
