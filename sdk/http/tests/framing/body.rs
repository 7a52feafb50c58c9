use middlenet_http::*;

/// Payload, bytes consumed, and how it ended: `None` if more input is needed.
type Read = (Vec<u8>, usize, Option<Result<(), Reject>>);

/// Reads `input` in pieces of at most `piece` bytes.
pub(crate) fn read(reader: &mut BodyReader, input: &[u8], piece: usize) -> Read {
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let window = &input[at..input.len().min(at + piece)];
        match reader.next(window) {
            Ok(BodyStep::Data { start, length }) => {
                assert!(length > 0);
                payload.extend_from_slice(&window[start..start + length]);
                at += start + length;
            }
            Ok(BodyStep::Need { consumed }) => {
                assert_eq!(consumed, window.len());
                at += consumed;
                if at == input.len() {
                    return (payload, at, None);
                }
            }
            Ok(BodyStep::End { consumed }) => return (payload, at + consumed, Some(Ok(()))),
            Err(reject) => return (payload, at, Some(Err(reject))),
        }
    }
}

fn whole(framing: Framing, input: &[u8]) -> Read {
    read(&mut BodyReader::new(framing, &Limits::default()), input, usize::MAX - input.len())
}

fn chunked(input: impl AsRef<[u8]>) -> Read {
    whole(Framing::Chunked, input.as_ref())
}

#[test]
fn no_body() {
    let mut reader = BodyReader::new(Framing::None, &Limits::default());
    assert!(reader.is_done());
    assert_eq!(reader.left(), Some(0));
    assert_eq!(reader.next(b"GET"), Ok(BodyStep::End { consumed: 0 }));
    assert_eq!(reader.end_of_stream(), Ok(()));
}

#[test]
fn a_length() {
    let mut reader = BodyReader::new(Framing::Length(5), &Limits::default());
    assert_eq!(reader.next(b""), Ok(BodyStep::Need { consumed: 0 }));
    assert_eq!(reader.next(b"abc"), Ok(BodyStep::Data { start: 0, length: 3 }));
    assert_eq!((reader.left(), reader.is_done()), (Some(2), false));
    assert_eq!(reader.next(b"deGET"), Ok(BodyStep::Data { start: 0, length: 2 }));
    assert!(reader.is_done());
    assert_eq!(reader.next(b"GET"), Ok(BodyStep::End { consumed: 0 }));
}

#[test]
fn a_length_cut_short() {
    let mut reader = BodyReader::new(Framing::Length(5), &Limits::default());
    assert_eq!(reader.next(b"abc"), Ok(BodyStep::Data { start: 0, length: 3 }));
    assert_eq!(reader.end_of_stream(), Err(Reject::BodyCutShort));
    assert_eq!(reader.next(b"de"), Err(Reject::BodyCutShort));
}

#[test]
fn until_close() {
    let mut reader = BodyReader::new(Framing::UntilClose, &Limits { body_bytes: 4, ..Limits::default() });
    assert_eq!(reader.next(b"abc"), Ok(BodyStep::Data { start: 0, length: 3 }));
    assert_eq!((reader.is_done(), reader.left()), (false, None));
    assert_eq!(reader.next(b"def"), Ok(BodyStep::Data { start: 0, length: 1 }));
    assert_eq!(reader.next(b"ef"), Err(Reject::BodyTooLarge));
    let mut reader = BodyReader::new(Framing::UntilClose, &Limits::default());
    assert_eq!(reader.end_of_stream(), Ok(()));
    assert!(reader.is_done());
}

#[test]
fn chunks_with_extensions_and_trailers() {
    let input =
        b"5\r\nhello\r\n00A;x=\"y\"; z\r\n0123456789\r\n0\r\nX: y \r\nHost: b\r\nContent-Length: 3\r\nZ:\r\n\r\nGET";
    for piece in 1..input.len() {
        let mut reader = BodyReader::new(Framing::Chunked, &Limits::default());
        let (payload, consumed, end) = read(&mut reader, input, piece);
        assert_eq!(payload, b"hello0123456789");
        assert_eq!((consumed, end), (input.len() - 3, Some(Ok(()))));
        let trailers: Vec<_> = reader.trailers().collect();
        assert_eq!(trailers, [(&b"X"[..], &b"y"[..]), (b"Z", b"")]);
    }
}

#[test]
fn chunks_cut_short() {
    for end in 0..b"5\r\nhello\r\n0\r\n\r".len() {
        let mut reader = BodyReader::new(Framing::Chunked, &Limits::default());
        assert_eq!(read(&mut reader, &b"5\r\nhello\r\n0\r\n\r"[..end], 100).2, None);
        assert_eq!(reader.end_of_stream(), Err(Reject::BodyCutShort));
        assert_eq!(reader.trailers().count(), 0);
    }
}

#[test]
fn the_largest_chunk() {
    let (payload, _, end) = chunked("FFFFFFFFFFFFFFFF\r\nabc");
    assert_eq!((payload, end), (b"abc".to_vec(), None));
}

/// One test per line: name, bytes, reject. Whole and byte by byte.
macro_rules! refused {
    ($($name:ident: $bytes:expr => $reject:ident,)*) => { $(
        #[test]
        fn $name() {
            let input = $bytes;
            let bytes: &[u8] = input.as_ref();
            let expected = Some(Err(Reject::$reject));
            assert_eq!(chunked(bytes).2, expected);
            assert_eq!(read(&mut BodyReader::new(Framing::Chunked, &Limits::default()), bytes, 1).2, expected);
        }
    )* };
}

refused! {
    size_empty: "\r\nhello" => BadChunkSize,
    size_empty_with_extension: ";x\r\nhello" => BadChunkSize,
    size_with_plus: "+5\r\nhello" => BadChunkSize,
    size_with_minus: "-5\r\nhello" => BadChunkSize,
    size_with_0x: "0x5\r\nhello" => BadChunkSize,
    size_with_leading_space: " 5\r\nhello" => BadChunkSize,
    size_with_trailing_space: "5 \r\nhello" => BadChunkSize,
    size_with_space_before_extension: "5 ;x\r\nhello" => BadChunkSize,
    size_with_underscore: "1_0\r\nhello" => BadChunkSize,
    size_of_17_digits: "00000000000000005\r\nhello" => BadChunkSize,
    size_overflows: "10000000000000000\r\nhello" => BadChunkSize,
    size_ends_with_bare_lf: "5\nhello" => BareLf,
    size_ends_with_bare_cr: "5\rhello" => BareCr,
    size_ends_with_cr_twice: "5\r\r\nhello" => BareCr,
    size_nul: "5\0\r\nhello" => BadChunkSize,
    extension_ends_with_bare_lf: "5;x\nhello" => BareLf,
    extension_with_bare_cr: "5;x\ry\r\nhello" => BareCr,
    extension_with_nul: "5;\0\r\nhello" => Nul,
    extension_with_control_byte: "5;\x01\r\nhello" => BadChunkExtension,
    extension_too_long: format!("5;{}\r\nhello", "x".repeat(300)) => ChunkLineTooLong,
    extensions_outweigh_the_body: format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100) => ChunkOverhead,
    chunk_without_crlf: "5\r\nhello0\r\n\r\n" => BadChunkEnd,
    chunk_longer_than_its_size: "5\r\nhello!\r\n0\r\n\r\n" => BadChunkEnd,
    chunk_ends_with_bare_lf: "5\r\nhello\n0\r\n\r\n" => BareLf,
    chunk_ends_with_bare_cr: "5\r\nhello\r0\r\n\r\n" => BadChunkEnd,
    last_chunk_ends_with_bare_lf: "0\r\n\n" => BareLf,
    last_chunk_ends_with_bare_cr: "0\r\n\rx" => BareCr,
    trailer_bare_lf: "0\r\nX: y\n\r\n" => BareLf,
    trailer_folded: "0\r\nX: y\r\n z\r\n\r\n" => ObsFold,
    trailer_without_colon: "0\r\nX\r\n\r\n" => BadHeaderName,
    trailer_with_space_before_colon: "0\r\nX : y\r\n\r\n" => SpaceBeforeColon,
    trailer_with_nul: "0\r\nX: \0\r\n\r\n" => Nul,
    trailers_too_large: format!("0\r\n{}\r\n", "X: y\r\n".repeat(1000)) => TrailersTooLarge,
    trailers_left_out_count_too: format!("0\r\n{}\r\n", "Host: y\r\n".repeat(1000)) => TrailersTooLarge,
    trailer_without_end: format!("0\r\nX: {}", "y".repeat(5000)) => TrailersTooLarge,
}

#[test]
fn honest_small_chunks_are_no_overhead() {
    let (payload, _, end) = chunked("1\r\na\r\n".repeat(100_000) + "0\r\n\r\n");
    assert_eq!((payload.len(), end), (100_000, Some(Ok(()))));
}

#[test]
fn a_body_beyond_the_limit() {
    let limits = Limits { body_bytes: 5, ..Limits::default() };
    assert_eq!(BodyReader::new(Framing::Length(6), &limits).next(b"abcdef"), Err(Reject::BodyTooLarge));
    let mut reader = BodyReader::new(Framing::Chunked, &limits);
    assert_eq!(read(&mut reader, b"3\r\nabc\r\n3\r\ndef\r\n", 100).2, Some(Err(Reject::BodyTooLarge)));
    assert_eq!(reader.next(b"x"), Err(Reject::BodyTooLarge), "an error is final");
}
