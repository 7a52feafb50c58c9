//! Commands that ask a run: `status`, `drops`, `stop`, `apply`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::check::{plan_source, read, report};
use super::{Failure, Watch, print_data};
use crate::api::{Client, Request, Response, Status};
use crate::check::Traffic;
use crate::machine::Machine;
use crate::render::{Rates, drops_json, drops_text, status_json, status_text};
use crate::run_folder;

/// Time between the two looks that a rate needs.
const SAMPLE: Duration = Duration::from_millis(300);
/// How long `stop` waits for the end.
const STOP_PATIENCE: Duration = Duration::from_secs(70);

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Status,
    Drops,
}

/// The run that is meant.
fn find(name: Option<&str>) -> Result<String, Failure> {
    let running = run_folder::running();
    let list = || running.join(", ");
    match (name, running.as_slice()) {
        (Some(name), _) if running.iter().any(|r| r == name) => Ok(name.to_owned()),
        (Some(name), []) => {
            let hint = format!("start it: `middlenet run FILE`, where FILE says `name: {name}`");
            Err(Failure::new(format!("`{name}` does not run, and no other run does"), Some(hint)))
        }
        (Some(name), _) => Err(Failure::new(format!("`{name}` does not run"), Some(format!("these do: {}", list())))),
        (None, [one]) => Ok(one.clone()),
        (None, []) => Err(Failure::new("no run is there", Some("start one: `middlenet run edge.yaml`".into()))),
        (None, _) => Err(Failure::new("several runs are there", Some(format!("name one of: {}", list())))),
    }
}

fn connect(name: Option<&str>) -> Result<Client, Failure> {
    Ok(Client::connect(&run_folder::socket(&find(name)?))?)
}

fn ask(client: &mut Client, request: &Request) -> Result<Response, Failure> {
    match client.ask(request)? {
        Response::Failed { message, hint } => Err(Failure::new(message, hint)),
        response => Ok(response),
    }
}

fn status(client: &mut Client, reports: bool) -> Result<Status, Failure> {
    match ask(client, &Request::Status { reports })? {
        Response::Status(status) => Ok(*status),
        _ => Err(Failure::new("the run gave another answer than its status", None)),
    }
}

pub(super) fn watch(arguments: &Watch, view: View) -> Result<(), Failure> {
    let mut client = connect(arguments.name.as_deref())?;
    let reports = arguments.json && view == View::Status;
    let mut before = status(&mut client, false)?;
    let interval = arguments.watch.map(|s| Duration::from_secs_f64(s.clamp(0.1, 3600.0)));
    let mut wait = SAMPLE;
    loop {
        std::thread::sleep(wait);
        let after = status(&mut client, reports)?;
        let text = match (view, arguments.json) {
            (View::Status, false) => status_text(&after, &Rates::between(&before, &after)),
            (View::Drops, false) => drops_text(&before, &after),
            (view, true) => {
                let value = match view {
                    View::Status => status_json(&after, &Rates::between(&before, &after)),
                    View::Drops => drops_json(&before, &after),
                };
                if interval.is_some() { format!("{value}\n") } else { format!("{value:#}\n") }
            }
        };
        let redraw = interval.is_some() && !arguments.json && std::io::stdout().is_terminal();
        print_data(&if redraw { format!("\x1b[H\x1b[2J{text}") } else { text });
        let Some(interval) = interval else { return Ok(()) };
        before = after;
        wait = interval;
    }
}

pub(super) fn stop(name: Option<&str>) -> Result<(), Failure> {
    let name = find(name)?;
    let mut client = connect(Some(&name))?;
    ask(&mut client, &Request::Stop)?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while run_folder::running().contains(&name) {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("`{name}` has not stopped within {} s", STOP_PATIENCE.as_secs()), None));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = writeln!(std::io::stderr(), "middlenet: `{name}` has stopped");
    Ok(())
}

pub(super) fn apply(path: &Path, json: bool) -> Result<(), Failure> {
    let source = read(path)?;
    // Checked here as well, where errors can be shown in place. The memory of the run is not free, but it is its own.
    let machine = Machine { memory_bytes: u64::MAX, huge_pages: u64::MAX >> 21, ..Machine::here() };
    let plan = plan_source(&source, &machine, &Traffic::Ports).map_err(|refusal| report(&refusal))?;
    let mut client = connect(Some(&plan.name))?;
    let folder = source.folder.display().to_string();
    let response = ask(&mut client, &Request::Apply { manifest: source.text, folder })?;
    if json {
        print_data(&format!("{:#}\n", serde_json::json!(response)));
    }
    match response {
        Response::Applied { changed } if json => drop(changed),
        Response::Applied { changed } if changed.is_empty() => print_data("nothing to change\n"),
        Response::Applied { changed } => {
            print_data(&changed.iter().map(|c| format!("changed {c}\n")).collect::<String>());
        }
        Response::NeedsRestart { differences } => {
            let list: String = differences.iter().map(|d| format!("\n  {d}")).collect();
            let hint = "only configurations of functions change while a run goes on: stop it and start it anew";
            return Err(Failure::new(
                format!("nothing was changed, because this needs a restart:{list}"),
                Some(hint.into()),
            ));
        }
        _ => return Err(Failure::new("the run gave an answer that fits no change", None)),
    }
    Ok(())
}

pub(super) fn replace(target: &str, name: Option<&str>, json: bool) -> Result<(), Failure> {
    let Some((chain, function)) = target.split_once('/') else {
        return Err(Failure::new(format!("`{target}` is no function of a chain"), Some("write CHAIN/FUNCTION".into())));
    };
    let mut client = connect(name)?;
    let request = Request::Replace { chain: chain.into(), function: function.into() };
    let response = ask(&mut client, &request)?;
    match &response {
        _ if json => print_data(&format!("{:#}\n", serde_json::json!(response))),
        Response::Replaced { pids } => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            print_data(&format!("{target} is now process {}\n", pids.join(", ")));
        }
        _ => return Err(Failure::new("the run gave an answer that fits no replacement", None)),
    }
    Ok(())
}
