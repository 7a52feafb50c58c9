//! A canonical path has no dot segments, and is its own canonical spelling.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_http::canonical_target;

fuzz_target!(|target: &[u8]| {
    let mut out = Vec::new();
    let Ok(changed) = canonical_target(target, &mut out) else { return };
    let once = if changed { &out[..] } else { target };
    assert_eq!(canonical_target(once, &mut Vec::new()), Ok(false));
    let path = once.split(|&byte| byte == b'?').next().unwrap();
    assert!(path.split(|&byte| byte == b'/').all(|segment| segment != b"." && segment != b".."));
});
