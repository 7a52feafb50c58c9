use super::line::{End, write};
use super::*;
use middlenet_sdk::middlebox::testkit::Testkit;
use proptest::prelude::*;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("middlenet-access-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("access.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn kit(format: &str, file: &Path) -> Testkit<AccessLog> {
    Testkit::new(json!({"format": format, "file": file, "flush_ms": 100}))
}

fn request(kit: &mut Testkit<AccessLog>, target: &str) {
    let text = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nUser-Agent: cur\"l\\\r\nReferer: \u{e9}\r\n\r\n");
    assert_eq!(kit.request(text).verdict, Verdict::Next);
    kit.finished(200, 100, 1234, Duration::from_micros(567));
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The line without its time.
fn timeless(line: &str) -> String {
    let (before, rest) = line.split_once('[').unwrap();
    format!("{before}{}", rest.split_once(']').unwrap().1)
}

#[test]
fn a_line_for_each_request() {
    let folder = Folder::new("lines");
    for (format, tail) in [("common", ""), ("combined", r#" "\xC3\xA9" "cur\x22l\x5C""#)] {
        let mut kit = kit(format, &folder.file());
        request(&mut kit, "/a?b");
        assert_eq!(kit.counter("lines"), 1);
        drop(kit);
        let text = read(&folder.file());
        assert_eq!(timeless(text.trim_end()), format!("192.0.2.1 - -  \"GET /a?b HTTP/1.1\" 200 1234{tail}"));
        std::fs::remove_file(folder.file()).unwrap();
    }
    let mut kit = kit("json", &folder.file());
    request(&mut kit, "/a?b");
    drop(kit);
    let mut line: Value = serde_json::from_str(&read(&folder.file())).unwrap();
    let time = line["time"].take();
    assert!(time.as_str().is_some_and(|time| time.starts_with("20") && time.len() == 24), "{time}");
    let expected = json!({
        "time": null, "client": "192.0.2.1", "port": 40000, "method": "GET", "target": "/a?b", "host": "a.example",
        "referer": "\u{e9}", "user_agent": "cur\"l\\", "protocol": "HTTP/1.1", "status": 200, "received_bytes": 100,
        "sent_bytes": 1234, "duration_us": 567, "upstream": null, "complete": true, "request_id": "0000000000000001"
    });
    assert_eq!(line, expected);
}

#[test]
fn the_time_is_that_of_the_request() {
    let record = Record::unknown(([192, 0, 2, 1], 9).into(), Duration::from_millis(971_211_336_042));
    let end = End {
        status: 0,
        received_bytes: 0,
        sent_bytes: 0,
        duration: Duration::ZERO,
        upstream: Some(([10, 0, 0, 1], 80).into()),
        is_complete: false,
    };
    let mut out = Vec::new();
    write(&mut out, Format::Common, &record, 0, &end);
    assert_eq!(out, b"192.0.2.1 - - [10/Oct/2000:20:55:36 +0000] \"-\" 0 0\n");
    out.clear();
    write(&mut out, Format::Json, &record, 0, &end);
    let line: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["time"], "2000-10-10T20:55:36.042Z");
    assert_eq!((&line["method"], &line["upstream"]), (&Value::Null, &json!("10.0.0.1:80")));
}

#[test]
fn lines_are_written_after_a_while_and_the_file_may_be_moved_away() {
    let folder = Folder::new("rotation");
    let mut kit = kit("common", &folder.file());
    request(&mut kit, "/first");
    kit.advance(Duration::from_millis(100));
    wait_until(|| read(&folder.file()).contains("/first"));
    let old = folder.0.join("access.log.1");
    std::fs::rename(folder.file(), &old).unwrap();
    wait_until(|| {
        kit.advance(Duration::from_millis(100));
        kit.counter("reopened") == 1
    });
    request(&mut kit, "/second");
    kit.advance(Duration::from_millis(100));
    wait_until(|| read(&folder.file()).contains("/second"));
    assert!(read(&old).contains("/first") && !read(&old).contains("/second"));
    // With nothing to open, the old file goes on.
    std::fs::remove_file(folder.file()).unwrap();
    std::fs::create_dir(folder.file()).unwrap();
    wait_until(|| {
        kit.advance(Duration::from_millis(100));
        kit.counter("reopen-failed") > 0
    });
    assert_eq!((kit.counter("lines"), kit.counter("dropped"), kit.counter("write-errors")), (2, 0, 0));
}

#[test]
fn a_full_queue_drops_lines_and_does_not_wait() {
    // A writer that never takes anything.
    let (sender, _receiver) = std::sync::mpsc::sync_channel(1);
    let mut queue = Queue::stuck(sender);
    let mut written = 0;
    for _ in 0..10_000 {
        if let Some(room) = queue.room() {
            room.extend_from_slice(&[b'x'; 99]);
            room.push(b'\n');
            written += 1;
        }
    }
    assert!((1300..1400).contains(&written), "two chunks of 64 KiB: {written}");
}

#[test]
fn an_end_without_a_head_has_its_line() {
    let folder = Folder::new("unknown");
    let mut kit = kit("common", &folder.file());
    kit.finished(408, 10, 20, Duration::ZERO);
    assert_eq!((kit.counter("lines"), kit.counter("unknown")), (1, 1));
    drop(kit);
    assert!(read(&folder.file()).ends_with("\"-\" 408 20\n"));
}

#[test]
fn a_change_goes_on_in_the_same_file() {
    let folder = Folder::new("change");
    let mut kit = kit("common", &folder.file());
    kit.request("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    kit.reconfigure(json!({"format": "json", "file": folder.file()})).unwrap();
    kit.finished(200, 1, 2, Duration::ZERO);
    drop(kit);
    assert!(read(&folder.file()).contains("\"target\":\"/x\""));
}

#[test]
fn a_trial_leaves_no_trace_and_mistakes_are_told() {
    let folder = Folder::new("trial");
    let registration = middlenet_sdk::Registration::middlebox::<AccessLog>("access-log", "");
    registration.try_config(json!({"file": folder.file()}), &mut Init::default()).unwrap();
    assert!(!folder.file().exists());
    for (config, part) in [
        (json!({"file": "access.log"}), "absolute"),
        (json!({"file": "/nowhere/at/all.log"}), "cannot be opened"),
        (json!({"file": "/"}), "neither a file nor a device"),
        (json!({"flush_ms": 1}), "`flush_ms`"),
        (json!({"queue_kib": 1}), "`queue_kib`"),
        (json!({"format": "xml"}), "unknown variant"),
        (json!({"path": "/x"}), "unknown field"),
    ] {
        let error = Testkit::<AccessLog>::try_new(config.clone()).err().map(|e| e.message).unwrap_or_default();
        assert!(error.contains(part), "{config}: {error}");
    }
}

proptest! {
    /// Whatever a client sends, a line is one line, its fields are where they belong, and JSON is JSON. The path has no
    /// segments that a request is refused for.
    #[test]
    fn nothing_breaks_out_of_its_field(agent in proptest::collection::vec(0x20u8.., 0..60), path in "/x[!-~&&[^#\\\\%/]]{0,40}") {
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: ").into_bytes();
        text.extend(agent.iter().filter(|&&b| b != 0x7f));
        text.extend_from_slice(b"\r\n\r\n");
        let folder = Folder::new("any");
        for format in ["combined", "json"] {
            let mut kit = kit(format, &folder.file());
            kit.request(&text);
            kit.finished(200, 1, 2, Duration::ZERO);
            drop(kit);
            // The writer waits for a busy disk only so long, and then goes on by itself.
            wait_until(|| read(&folder.file()).ends_with('\n'));
            let line = read(&folder.file());
            std::fs::remove_file(folder.file()).unwrap();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(!line.trim_end().chars().any(char::is_control));
            if format == "json" {
                prop_assert!(serde_json::from_str::<Value>(&line).is_ok(), "{}", line);
            } else {
                prop_assert!(line.is_ascii() && line.matches('"').count() == 6, "{}", line);
            }
        }
    }
}
