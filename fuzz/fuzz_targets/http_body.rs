//! A chunked body is the same however its bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_http::{BodyReader, BodyStep, Framing, Limits, Reject};

fn read(input: &[u8], piece: usize) -> (Vec<u8>, Option<Result<(), Reject>>) {
    let (mut reader, mut payload, mut at) = (BodyReader::new(Framing::Chunked, &Limits::default()), Vec::new(), 0);
    loop {
        let window = &input[at..input.len().min(at + piece)];
        match reader.next(window) {
            Ok(BodyStep::Data { start, length }) => {
                payload.extend_from_slice(&window[start..start + length]);
                at += start + length;
            }
            Ok(BodyStep::Need { consumed }) if at + consumed < input.len() => at += consumed,
            Ok(BodyStep::Need { .. }) => return (payload, None),
            Ok(BodyStep::End { .. }) => return (payload, Some(Ok(()))),
            Err(reject) => return (payload, Some(Err(reject))),
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    assert_eq!(read(bytes, usize::from(piece) + 1), read(bytes, usize::from(u16::MAX)));
});
