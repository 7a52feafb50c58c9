//! Runs over capture files: no privileges, no network, the same result every time.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use middlenet_tests::{
    Command, Error, Output, Process, RunStatus, Scratch, binary, example, random_frame, read_capture, require_root,
    write_capture,
};

const SOON: Duration = Duration::from_secs(60);
/// Debian's user for those who own nothing.
const NOBODY: &str = "65534";

const MANIFEST: &str = "name: over-captures
ports:
  wan: { xdp: nowhere0 }
  lan: { xdp: nowhere1 }
chains:
  transit:
    ports: [wan, lan]
    functions:
      - firewall: { default: drop, rules: [{ proto: udp, dst_port: 53, allow: true }, { proto: icmp, allow: true }] }
      - l3-router: { resolve: false, gateway_mac: '02:00:00:00:00:99', accept_any_mac: true, addresses: [
          { address: 10.1.0.1/24, port: wan }, { address: 10.2.0.1/24, port: lan } ] }
";

/// Programs and folders that another user may reach.
struct Stage {
    scratch: Scratch,
}

impl Stage {
    fn new() -> Result<Self, Error> {
        let scratch = Scratch::new()?;
        let stage = Self { scratch };
        for program in ["middlenet", "middlenet-nf-manager"] {
            stage.bring(&binary(program)?)?;
        }
        Ok(stage)
    }

    /// Copies a program in, as the folder it was built in may be closed to others.
    fn bring(&self, program: &Path) -> Result<(), Error> {
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or("program");
        let path = self.scratch.file(name);
        std::fs::copy(program, &path)
            .and_then(|_| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
            .map_err(|source| Error::File { path, source })
    }

    /// Runs `middlenet` as a user without any privileges.
    fn middlenet(&self, arguments: &[&str]) -> Result<Output, Error> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--bounding-set", "-all"]);
        command.args(["--inh-caps", "-all", "--no-new-privs", "--"]);
        command.arg(self.scratch.file("middlenet")).args(arguments).current_dir(self.scratch.path());
        Process::spawn(&mut command)?.wait(SOON)
    }
}

/// A UDP packet from 10.1.0.2 to 10.2.0.2.
fn datagram(dst_port: u16, length: usize, ttl: u8) -> Vec<u8> {
    let total = u16::try_from(28 + length).expect("a short packet").to_be_bytes();
    let udp = u16::try_from(8 + length).expect("a short packet").to_be_bytes();
    let mut ip = vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, ttl, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2];
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("a short header");
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0];
    frame.extend(ip);
    frame.extend(40_000u16.to_be_bytes());
    frame.extend(dst_port.to_be_bytes());
    frame.extend(udp);
    // No checksum.
    frame.extend([0, 0]);
    frame.resize(frame.len() + length, 0xa5);
    frame
}

fn parse(output: &Output) -> RunStatus {
    assert!(output.status.success(), "{}", output.stderr);
    RunStatus(serde_json::from_str(&output.stdout).expect("--json prints JSON"))
}

fn assert_accounted(status: &RunStatus) {
    let conservation = status.conservation();
    assert!(conservation.balances() && conservation.held == 0, "{conservation:?}");
    assert_eq!(status.buffers_astray(), 0, "every buffer is back: {:#}", status.0["data_plane"]["conservation"]);
}

#[test]
fn anybody_can_run_a_chain_over_a_capture_and_the_result_is_the_same_every_time() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Stage::new()?;
    stage.scratch.write("chain.yaml", MANIFEST)?;
    let frames: Vec<_> = (0..3000).map(|at| datagram(if at % 3 == 0 { 54 } else { 53 }, at % 1400, 64)).collect();
    write_capture(&stage.scratch.file("in.pcap"), &frames)?;
    let mut results = Vec::new();
    for out in ["first.pcap", "second.pcap"] {
        let output = stage.middlenet(&["run", "--pcap", "wan=in.pcap", "--write", out, "--json", "chain.yaml"])?;
        let status = parse(&output);
        assert_accounted(&status);
        assert_eq!(status.port_count("wan", "received_pkts"), 3000);
        assert_eq!(status.dropped("firewall", "denied"), 1000);
        assert_eq!(status.port_count("lan", "sent_pkts"), 2000);
        assert_eq!(status.counter("l3-router", "forwarded"), 2000);
        let path = stage.scratch.file(out);
        results.push(std::fs::read(&path).map_err(|source| Error::File { path, source })?);
    }
    assert!(results[0] == results[1], "two runs over one capture differ");
    let left = read_capture(&stage.scratch.file("first.pcap"))?;
    assert_eq!(left.len(), 2000);
    for (out, before) in left.iter().zip(frames.iter().filter(|frame| frame[37] == 53)) {
        assert_eq!(out[22], 63, "the router lowers the TTL by one");
        assert_eq!(&out[..6], &[2, 0, 0, 0, 0, 0x99]);
        assert_eq!(&out[26..], &before[26..], "all else is untouched");
    }
    Ok(())
}

/// No packet of a capture stays in the kernel, where nobody would write it down; whoever expects it to is told.
#[test]
fn functions_with_a_mode_deal_with_captures_themselves() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Stage::new()?;
    let manifest = |modes: [&str; 2]| {
        let [efw, stats] = modes;
        format!(
            "name: modes
ports: {{ wan: {{ xdp: nowhere0 }}, lan: {{ xdp: nowhere1 }} }}
chains:
  transit:
    ports: [wan, lan]
    functions:
      - efw: {{ config: {{ rules: [{{ dst_port: 54, allow: false }}, {{ dst_port: 53, allow: true }}] }}{efw} }}
      - flow-stats: {{ config: {{}}{stats} }}
"
        )
    };
    stage.scratch.write("modes.yaml", manifest([", mode: proactive", ", mode: reactive"]))?;
    stage.scratch.write("none.yaml", manifest(["", ""]))?;
    let frames: Vec<_> = (0..300).map(|at| datagram(if at % 3 == 0 { 54 } else { 53 }, 10, 64)).collect();
    write_capture(&stage.scratch.file("in.pcap"), &frames)?;
    for (file, is_told) in [("modes.yaml", true), ("none.yaml", false)] {
        let output = stage.middlenet(&["run", "--pcap", "wan=in.pcap", "--write", "out.pcap", "--json", file])?;
        let status = parse(&output);
        assert_accounted(&status);
        assert_eq!((status.dropped("efw", "denied"), status.counter("flow-stats", "udp")), (100, 200));
        assert_eq!(read_capture(&stage.scratch.file("out.pcap"))?.len(), 200, "every packet that passed is there");
        let note = "note: captures do not pass through the kernel: `mode` counts for nothing";
        assert_eq!(output.stderr.contains(note), is_told, "{}", output.stderr);
        assert!(!is_told || output.stderr.contains("all packets of `efw`, `flow-stats`"), "{}", output.stderr);
    }
    Ok(())
}

#[test]
fn a_function_of_ones_own_takes_part() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Stage::new()?;
    stage.bring(&example("my-function")?)?;
    let manifest = "name: own
ports: { left: { xdp: nowhere0 }, right: { xdp: nowhere1 } }
chains:
  transit:
    ports: [left, right]
    functions:
      - mine: { run: ./my-function, config: { max_ttl: 32 } }
      - monitor
";
    stage.scratch.write("chain.yaml", manifest)?;
    let frames: Vec<_> = (0..100).map(|at| datagram(53, 100, if at % 2 == 0 { 64 } else { 5 })).collect();
    write_capture(&stage.scratch.file("in.pcap"), &frames)?;
    let output = stage.middlenet(&["run", "--pcap", "in.pcap", "--write", "out.pcap", "--json", "chain.yaml"])?;
    let status = parse(&output);
    assert_accounted(&status);
    assert_eq!((status.counter("mine", "clamped"), status.counter("monitor", "udp")), (50, 100));
    let ttls: Vec<u8> = read_capture(&stage.scratch.file("out.pcap"))?.iter().map(|frame| frame[22]).collect();
    assert_eq!(ttls, [32, 5].repeat(50));
    // Its own opinion of its configuration stands where the configuration stands.
    stage.scratch.write("wrong.yaml", manifest.replace("max_ttl: 32", "max_ttl: many"))?;
    let output = stage.middlenet(&["check", "wrong.yaml"])?;
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("wrong.yaml:7:"), "{}", output.stderr);
    Ok(())
}

#[test]
fn garbage_in_a_capture_is_accounted_for() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Stage::new()?;
    stage.scratch.write("chain.yaml", MANIFEST)?;
    let frames: Vec<_> = (0..5000).map(|seed| random_frame(seed, [2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2])).collect();
    write_capture(&stage.scratch.file("in.pcap"), &frames)?;
    let output = stage.middlenet(&["run", "--pcap", "wan=in.pcap", "--write", "out.pcap", "--json", "chain.yaml"])?;
    let status = parse(&output);
    assert_accounted(&status);
    assert_eq!(status.port_count("wan", "received_pkts"), 5000);
    assert_eq!(status.restarts("firewall") + status.restarts("l3-router"), 0);
    Ok(())
}

#[test]
fn a_bad_capture_is_named_in_one_sentence() -> Result<(), Error> {
    require_root!(Ok(()));
    let stage = Stage::new()?;
    stage.scratch.write("chain.yaml", MANIFEST)?;
    stage.scratch.write("text.pcap", "this is no capture\n")?;
    stage.scratch.write("empty.pcap", "")?;
    for (file, word) in [("text.pcap", "text.pcap"), ("empty.pcap", "empty.pcap"), ("missing.pcap", "missing.pcap")] {
        let output =
            stage.middlenet(&["run", "--pcap", &format!("wan={file}"), "--write", "out.pcap", "chain.yaml"])?;
        assert_eq!(output.status.code(), Some(1), "{file}: {}", output.stderr);
        assert!(output.stderr.contains(word), "{file} is not named: {}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    // Cut in the middle of a packet: what is whole counts.
    let whole = stage.scratch.file("whole.pcap");
    write_capture(&whole, &[datagram(53, 100, 64), datagram(53, 100, 64)])?;
    let bytes = std::fs::read(&whole).map_err(|source| Error::File { path: whole, source })?;
    stage.scratch.write("cut.pcap", &bytes[..bytes.len() - 50])?;
    let output = stage.middlenet(&["run", "--pcap", "wan=cut.pcap", "--write", "out.pcap", "--json", "chain.yaml"])?;
    if output.status.success() {
        assert_eq!(parse(&output).port_count("wan", "received_pkts"), 1);
    } else {
        assert!(output.stderr.contains("cut.pcap"), "{}", output.stderr);
    }
    Ok(())
}
