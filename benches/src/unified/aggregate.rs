//! `aggregate/SIZE`: packets of SIZE bytes and requests, each as much as it can, on one interface; beside it the same two loads
//! on an interface each.
//!
//! Both layouts have the same processes on the same cores, so a lower sum is the price of sharing the interface.

use std::time::{Duration, Instant};

use super::site::{Layout, Site, all_answered};
use crate::BenchError;
use crate::bench::Bench;
use crate::run::pause;
use crate::statistics::Figure;

/// Bytes of a packet with its FCS.
const SIZES: [usize; 5] = [64, 256, 512, 1024, 1400];
const QUICK_SIZES: [usize; 3] = [64, 512, 1400];
const FCS_BYTES: usize = 4;
const REFERENCE: &str = "separate";
/// Until both loads have found their speed.
const LEAD: Duration = Duration::from_millis(300);
/// Longer than wrk takes to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bits per second that arrived.
#[derive(Debug, Clone, Copy)]
struct Point {
    packets_bps: f64,
    responses_bps: f64,
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let sizes: &[usize] = if bench.quick { &QUICK_SIZES } else { &SIZES };
    let sizes: Vec<usize> = sizes.iter().copied().filter(|&size| bench.wants(&case(size))).collect();
    if sizes.is_empty() {
        return Ok(());
    }
    let measured = sweep(bench, &sizes);
    bench.outcome_of("aggregate", measured)
}

fn case(size: usize) -> String {
    format!("aggregate/{size}")
}

fn sweep(bench: &mut Bench, sizes: &[usize]) -> Result<(), BenchError> {
    let site = Site::build(bench)?;
    let repetitions = if bench.quick { 3 } else { 5 };
    // By size, then by repetition.
    let mut points = vec![Vec::new(); sizes.len()];
    for repetition in 0..repetitions {
        bench.progress(&format!("aggregate, {} of {repetitions}", repetition + 1));
        let mut of_layouts = Vec::new();
        for layout in Layout::BOTH {
            let run = site.start(bench, layout)?;
            let of_sizes: Result<Vec<_>, _> = sizes.iter().map(|&size| point(bench, &site, layout, size)).collect();
            of_layouts.push(of_sizes?);
            run.stop()?;
        }
        for (at, points) in points.iter_mut().enumerate() {
            points.push((of_layouts[0][at], of_layouts[1][at]));
        }
    }
    for (&size, points) in sizes.iter().zip(&points) {
        let mut add = |case: String, of: fn(&Point) -> f64| {
            let figure = |side: &dyn Fn(&(Point, Point)) -> f64| {
                Figure::of(&points.iter().map(|pair| side(pair) / 1e6).collect::<Vec<_>>())
            };
            if let (Some(unified), Some(separate)) = (figure(&|pair| of(&pair.0)), figure(&|pair| of(&pair.1))) {
                let entry = bench.entry(&case, "throughput", "Mb/s", unified).against(REFERENCE, separate);
                bench.entries.push(entry);
            }
        };
        add(case(size), |point| point.packets_bps + point.responses_bps);
        add(format!("{}/packets", case(size)), |point| point.packets_bps);
        add(format!("{}/responses", case(size)), |point| point.responses_bps);
    }
    Ok(())
}

fn point(bench: &Bench, site: &Site, layout: Layout, size: usize) -> Result<Point, BenchError> {
    // wrk takes whole seconds; what is measured lies within them.
    let (seconds, time) = if bench.quick { (1, Duration::from_millis(600)) } else { (4, Duration::from_secs(3)) };
    // wrk tries to connect before anything else, and does not begin before it has.
    let requests = site.requests(layout, seconds)?;
    pause(LEAD / 2)?;
    let sender = site.packets(size - FCS_BYTES, None)?;
    pause(LEAD / 2)?;
    let (start, before) = (Instant::now(), site.arrived(layout)?);
    pause(time)?;
    let (elapsed, after) = (start.elapsed().as_secs_f64(), site.arrived(layout)?);
    let ended = requests.wait(PATIENCE)?;
    drop(sender);
    all_answered(&ended.stdout)?;
    let [packets_bps, responses_bps] = [0, 1].map(|at| (after[at].bytes - before[at].bytes) as f64 * 8.0 / elapsed);
    Ok(Point { packets_bps, responses_bps })
}
