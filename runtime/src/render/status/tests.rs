use super::*;
use crate::render::drops_text;
use middlenet_plan::{HopStats, PortStats, WorkerStats};

fn status(uptime_s: f64, packets: u64) -> Status {
    let port = |name: &str, received_pkts, sent_pkts| PortStats {
        name: name.into(),
        kind: "xdp native".into(),
        received_pkts,
        received_bytes: received_pkts * 100,
        sent_pkts,
        ..PortStats::default()
    };
    let hop = HopStats {
        name: "firewall".into(),
        chain: "transit".into(),
        in_pkts: packets,
        drops: vec![
            ("function".into(), "denied".into(), packets / 2),
            ("hop".into(), "ring-full".into(), 7),
            ("hop".into(), "no-instance".into(), 0),
        ],
        ..HopStats::default()
    };
    let conservation = Conservation {
        received_pkts: packets,
        dropped_pkts: packets / 2,
        sent_pkts: packets / 2,
        ..Default::default()
    };
    Status {
        name: "edge".into(),
        state: "running".into(),
        uptime_s: 3725.0,
        data_plane: Some(Stats {
            uptime_s,
            ports: vec![port("wan", packets, 0), port("lan", 0, packets / 2)],
            hops: vec![hop],
            workers: vec![WorkerStats { core: 0, busy_turns: packets, idle_turns: packets, ..Default::default() }],
            conservation,
        }),
        ..Status::default()
    }
}

#[test]
fn rates_are_differences_over_the_data_planes_own_time() {
    let rates = Rates::between(&status(10.0, 1000), &status(12.0, 5000));
    assert_eq!(rates.ports[0].received_pps, 2000.0);
    assert_eq!(rates.ports[0].received_bps, 1_600_000.0);
    assert_eq!(rates.hops[0].dropped_pps, 1000.0);
    assert_eq!(rates.workers, [0.5]);
    // The manager restarted meanwhile.
    assert!(Rates::between(&status(10.0, 1000), &status(1.0, 5)).ports.is_empty());
}

#[test]
fn drops_are_sorted_and_zeroes_left_out() {
    let text = drops_text(&status(10.0, 1000), &status(12.0, 5000));
    let expected = "\
STAGE     PLACE             REASON     PACKETS      RATE
function  transit/firewall  denied       2 500  1.0 kpps
hop       transit/firewall  ring-full        7     0 pps
";
    assert_eq!(text, expected);
}

#[test]
fn a_status_names_everything_once() {
    let after = status(12.0, 5000);
    let text = status_text(&after, &Rates::between(&status(10.0, 1000), &after));
    for part in [
        "edge: running for 1 h 2 min",
        "2.0 kpps",
        "nf-manager",
        "packets: 5 000 received + 0 made = 2 500 sent + 2 500 dropped + 0 held",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn a_port_that_was_restarted_is_noted() {
    let mut status = status(1.0, 10);
    let rendered = |status: &Status| status_text(status, &Rates::default());
    assert!(!rendered(&status).contains("restarted"));
    let port = &mut status.data_plane.as_mut().unwrap().ports[0];
    port.trouble = Some("its physical function was reset".into());
    port.restarts = 2;
    let note = "note: port `wan` was restarted, 2 times so far: its physical function was reset\n";
    assert!(rendered(&status).contains(note));
}
