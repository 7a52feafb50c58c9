//! Any text is a manifest or a list of problems, each with a place in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_runtime::manifest::Manifest;

fuzz_target!(|text: &str| {
    let _ = Manifest::parse(text);
});
