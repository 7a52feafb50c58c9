//! A line of the log.

use super::Format;
use super::record::{Part, Record};
use crate::log_file::Civil;
use middlenet_sdk::middlebox::Finished;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) status: u16,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) duration: Duration,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) is_complete: bool,
}

impl End {
    pub(super) fn of(end: &Finished<'_>) -> Self {
        Self {
            status: end.status(),
            received_bytes: end.received_bytes(),
            sent_bytes: end.sent_bytes(),
            duration: end.duration(),
            upstream: end.upstream(),
            is_complete: end.is_complete(),
        }
    }
}

/// Appends a line.
pub(super) fn write(out: &mut Vec<u8>, format: Format, record: &Record, request_id: u64, end: &End) {
    // Writing to memory does not fail.
    drop(match format {
        Format::Json => json(out, record, request_id, end),
        Format::Common | Format::Combined => common(out, format, record, end),
    });
    out.push(b'\n');
}

fn common(out: &mut Vec<u8>, format: Format, record: &Record, end: &End) -> std::io::Result<()> {
    let time = Civil::of(record.at.as_secs());
    let Civil { year, day, hour, minute, second, .. } = time;
    let month = time.month_name();
    write!(out, "{} - - [{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000] \"", record.client.ip())?;
    match record.part(Part::Method) {
        Some(method) => {
            escape(out, method);
            out.push(b' ');
            escape(out, record.part(Part::Target).unwrap_or_default());
            write!(out, " HTTP/1.{}\" {} {}", record.minor, end.status, end.sent_bytes)?;
        }
        None => write!(out, "-\" {} {}", end.status, end.sent_bytes)?,
    }
    if format == Format::Combined {
        for part in [Part::Referer, Part::UserAgent] {
            out.extend_from_slice(b" \"");
            escape(out, record.part(part).filter(|value| !value.is_empty()).unwrap_or(b"-"));
            out.push(b'"');
        }
    }
    Ok(())
}

fn json(out: &mut Vec<u8>, record: &Record, request_id: u64, end: &End) -> std::io::Result<()> {
    let Civil { year, month, day, hour, minute, second } = Civil::of(record.at.as_secs());
    write!(
        out,
        "{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z\",\"client\":\"{}\",\"port\":{}",
        record.at.subsec_millis(),
        record.client.ip(),
        record.client.port(),
    )?;
    for (name, part) in [
        ("method", Part::Method),
        ("target", Part::Target),
        ("host", Part::Host),
        ("referer", Part::Referer),
        ("user_agent", Part::UserAgent),
    ] {
        write!(out, ",\"{name}\":")?;
        match record.part(part) {
            Some(value) => json_string(out, value)?,
            None => out.extend_from_slice(b"null"),
        }
    }
    write!(
        out,
        ",\"protocol\":\"HTTP/1.{}\",\"status\":{},\"received_bytes\":{},\"sent_bytes\":{},\"duration_us\":{},\"upstream\":",
        record.minor,
        end.status,
        end.received_bytes,
        end.sent_bytes,
        end.duration.as_micros(),
    )?;
    match end.upstream {
        Some(upstream) => write!(out, "\"{upstream}\"")?,
        None => out.extend_from_slice(b"null"),
    }
    write!(out, ",\"complete\":{},\"request_id\":\"{request_id:016x}\"}}", end.is_complete)
}

/// Appends bytes so that none can end a field or a line, or reach a terminal.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | ..0x20 | 0x7f.. => {
                out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
}

/// Appends a JSON string (RFC 8259 7). Control characters of both sets, which terminals obey, are escaped.
fn json_string(out: &mut Vec<u8>, bytes: &[u8]) -> std::io::Result<()> {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                _ if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
                _ if c.is_ascii() => out.push(c as u8),
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
    Ok(())
}
