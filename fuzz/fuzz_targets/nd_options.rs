//! Options whose lengths were accepted are all walked; a message is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::{Icmpv6, NdMessage, NdOptions};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(options) = NdOptions::parse(bytes) {
        let count = options.count();
        assert!(count <= bytes.len() / 8 && (count > 0 || bytes.is_empty()));
    }
    let _ = Icmpv6::parse(bytes).and_then(|icmp| NdMessage::parse(&icmp)).map(|message| message.options().count());
});
