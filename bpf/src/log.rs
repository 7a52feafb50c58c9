//! What libbpf has to say goes into errors, not onto the terminal of whoever runs the process.

use std::cell::RefCell;
use std::sync::Once;

use libbpf_rs::{PrintLevel, set_print};

/// Longest log kept for an error: the end of a verifier log is what explains it.
const KEPT_BYTES: usize = 8 * 1024;

thread_local! {
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

fn keep(_level: PrintLevel, message: String) {
    SAID.with_borrow_mut(|said| {
        said.push_str(&message);
        if said.len() > KEPT_BYTES {
            let mut cut = said.len() - KEPT_BYTES;
            while !said.is_char_boundary(cut) {
                cut += 1;
            }
            said.drain(..cut);
        }
    });
}

/// Runs `work` and returns, beside its outcome, what libbpf said meanwhile on this thread (empty, or led by a newline).
///
/// libbpf has one print callback per process; it is replaced at the first call and stays replaced.
pub(crate) fn listen<T>(work: impl FnOnce() -> T) -> (T, String) {
    static CALLBACK: Once = Once::new();
    CALLBACK.call_once(|| {
        set_print(Some((PrintLevel::Info, keep)));
    });
    SAID.take();
    let outcome = work();
    let said = SAID.take();
    let said = said.trim_end();
    (outcome, if said.is_empty() { String::new() } else { format!("\n{said}") })
}
