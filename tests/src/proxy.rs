//! Runs with one chain of layer L4/L7 on the loopback of a namespace.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Error, Netns, RunStatus, Runtime, Wire, wait_until};

/// How long the last requests may take to come to rest.
const REST: Duration = Duration::from_secs(20);
/// How long a client may take to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// How messages reach the functions of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A call in the broker.
    Inline,
    /// Descriptors through SK_MSG.
    Skmsg,
    /// Descriptors through rings.
    Ring,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inline, Self::Skmsg, Self::Ring];
    /// Those that reach processes.
    pub const PROCESSES: [Self; 2] = [Self::Skmsg, Self::Ring];

    fn lines(self) -> &'static str {
        match self {
            Self::Inline => "placement: inline",
            Self::Skmsg => "placement: process\n    hop: skmsg",
            Self::Ring => "placement: process\n    hop: ring",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Skmsg => "skmsg",
            Self::Ring => "ring",
        }
    }
}

/// Does the same with each of these ways to reach functions, each in a namespace of its own.
///
/// # Errors
///
/// The first of `work`; what it was over stands in the test's output.
pub fn over(
    transports: &[Transport],
    mut work: impl FnMut(&Netns, Transport) -> Result<(), Error>,
) -> Result<(), Error> {
    for &transport in transports {
        eprintln!("over {transport:?}");
        let netns = Netns::new("web")?;
        work(&netns, transport)?;
    }
    Ok(())
}

/// The chain `web` and what runs it. Listens on `127.0.0.1:8080` and `[::1]:8080`.
#[derive(Debug)]
pub struct Proxy<'n> {
    netns: &'n Netns,
    run: Option<Runtime>,
    draining: bool,
}

/// What became of the requests of a chain.
#[derive(Debug, Clone)]
pub struct Account(pub Value);

impl Account {
    fn chain(&self) -> &Value {
        &self.0["chains"][0]
    }

    /// A count of the chain: `received`, `answered`, `aborted`, `retries`, ...
    ///
    /// # Panics
    ///
    /// If there is no such count.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.chain()[name].as_u64().unwrap_or_else(|| panic!("there is no count `{name}` in {:#}", self.chain()))
    }

    /// Requests that ended for this reason: `rejected` or `failed`.
    #[must_use]
    pub fn reason(&self, how: &str, reason: &str) -> u64 {
        let reasons = self.chain()[how].as_array().into_iter().flatten();
        reasons.filter(|entry| entry[0] == reason).filter_map(|entry| entry[1].as_u64()).sum()
    }

    /// All requests that ended in this way.
    #[must_use]
    pub fn all_reasons(&self, how: &str) -> u64 {
        self.chain()[how].as_array().into_iter().flatten().filter_map(|entry| entry[1].as_u64()).sum()
    }

    /// An upstream by its address.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn upstream(&self, address: &str) -> &Value {
        let mut all = self.0["upstreams"].as_array().into_iter().flatten();
        let found = all.find(|entry| entry["address"] == address);
        found.unwrap_or_else(|| panic!("no upstream {address} in {:#}", self.0["upstreams"]))
    }

    /// Whether every request is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        let ended = self.count("answered") + self.all_reasons("rejected") + self.all_reasons("failed");
        self.count("received") == ended + self.count("aborted") + self.count("in_progress")
    }

    /// Whether nothing is under way and every buffer is free.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.balances() && self.count("in_progress") == 0 && self.0["buffers"] == self.0["buffers_free"]
    }
}

impl<'n> Proxy<'n> {
    /// The address of the chain.
    pub const ADDRESS: &'static str = "127.0.0.1:8080";
    /// Its other address.
    pub const ADDRESS6: &'static str = "[::1]:8080";
    /// Names every request, and marks every response.
    pub const EDIT: &'static str = "header-edit: { request: [{ set: { name: X-Id, value: '$request_id' } }], response: [{ set: { name: X-Edited, value: 'yes' } }] }";
    /// `/old/...` becomes `/new/...`.
    pub const REWRITE: &'static str = "url-rewrite: { rules: [{ match: '^/old/(.*)$', to: '/new/$1' }] }";

    /// Starts a chain with these functions and these settings of the chain, a line each.
    ///
    /// # Errors
    ///
    /// If the run does not start.
    pub fn start(netns: &'n Netns, transport: Transport, functions: &[&str], settings: &[&str]) -> Result<Self, Error> {
        Self::start_with(netns, transport, functions, settings, "")
    }

    /// As [`Proxy::start`], with a further line at the top level of the manifest.
    ///
    /// # Errors
    ///
    /// If the run does not start.
    pub fn start_with(
        netns: &'n Netns,
        transport: Transport,
        functions: &[&str],
        settings: &[&str],
        top: &str,
    ) -> Result<Self, Error> {
        let functions: String = functions.iter().map(|function| format!("      - {function}\n")).collect();
        let settings: String = settings.iter().map(|setting| format!("    {setting}\n")).collect();
        let (address, address6, placed) = (Self::ADDRESS, Self::ADDRESS6, transport.lines());
        let chain = format!("layer: l4l7\n    listen: ['{address}', '{address6}']\n    {placed}\n{settings}");
        let functions = if functions.is_empty() { String::new() } else { format!("    functions:\n{functions}") };
        let cores = "cores: { broker: [0], functions: [0] }";
        let run = Runtime::prepare(&format!("{cores}\n{top}\nchains:\n  web:\n    {chain}{functions}"))?;
        let mut proxy = Self { netns, run: Some(run), draining: false };
        if let Some(run) = &mut proxy.run {
            run.launch(netns)?;
        }
        let status = proxy.run().wait_for("all functions", REST, serves)?;
        for hop in account(&status).0["hops"].as_array().into_iter().flatten() {
            let name = transport.name();
            assert_eq!(hop["transport"], name, "the functions are reached as asked: {}", status.0["messages"]["skmsg"]);
        }
        Ok(proxy)
    }

    /// A chain of three functions, of which one looks at responses, before one upstream.
    ///
    /// # Errors
    ///
    /// If the run does not start.
    pub fn three(netns: &'n Netns, transport: Transport, upstream: &str, settings: &[&str]) -> Result<Self, Error> {
        let proxy = format!("reverse-proxy: {{ upstreams: ['{upstream}'] }}");
        Self::start(netns, transport, &[Self::EDIT, Self::REWRITE, &proxy], settings)
    }

    /// The run.
    ///
    /// # Panics
    ///
    /// After its end.
    #[must_use]
    pub fn run(&self) -> &Runtime {
        self.run.as_ref().expect("the run has not been stopped")
    }

    /// A client's connection.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if it is refused.
    pub fn client(&self) -> Result<Wire, Error> {
        self.client_of(Self::ADDRESS)
    }

    /// A client's connection to another of its addresses.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if it is refused.
    pub fn client_of(&self, address: &str) -> Result<Wire, Error> {
        let fail = |source| Error::Socket { what: format!("connect to {address}"), source };
        let invalid = |e| fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, e));
        let at: SocketAddr = address.parse().map_err(invalid)?;
        Wire::new(self.netns.enter(|| TcpStream::connect_timeout(&at, CONNECT))?.map_err(fail)?)
    }

    /// Wants a good request to be answered well, on a connection of its own.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn serves_well(&self) -> Result<(), Error> {
        let mut client = self.client()?;
        client.send("GET /well HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let response = client.response()?;
        if response.status() == 200 {
            return Ok(());
        }
        let what = format!("a good request was answered {response:?}");
        Err(Error::Run { name: self.run().name().to_owned(), what })
    }

    /// The counters now, without the functions' reports: one that is busy would delay them.
    ///
    /// # Errors
    ///
    /// As [`Runtime::ask`].
    pub fn account(&self) -> Result<Account, Error> {
        let request = serde_json::json!({ "type": "status", "reports": false });
        self.run().ask(&request).map(|status| account(&RunStatus(status)))
    }

    /// Waits until the counters are as wanted.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] with the last counters and the log if they are not.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Account) -> bool) -> Result<Account, Error> {
        let mut last = self.account()?;
        let met = wait_until(what, REST, || {
            let now = self.account();
            now.is_ok_and(|now| {
                last = now;
                wanted(&last)
            })
        });
        met.map(|()| last.clone()).map_err(|late| {
            let mut counters = last.0;
            counters["chains"][0]["latency"].take();
            let what = format!("{late}; its log:\n{}\nits counters: {counters}", self.run().log());
            Error::Run { name: self.run().name().to_owned(), what }
        })
    }

    /// Waits until no request is under way: all are accounted for, and all buffers are free.
    ///
    /// # Errors
    ///
    /// As [`Runtime::wait_for`].
    pub fn wait_for_rest(&self) -> Result<Account, Error> {
        self.wait_for("rest", |account| account.0.is_object() && account.rests())
    }

    /// The broker's resident memory in KiB.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if there is no broker.
    pub fn resident_kib(&self) -> Result<u64, Error> {
        let status = self.run().status()?;
        let pid = &status.0["broker"]["pid"];
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.ok_or_else(|| Error::Run {
            name: self.run().name().to_owned(),
            what: format!("no memory of process {pid}"),
        })
    }

    /// Waits for rest, ends the run, and asserts that it ended well and accounts for every request.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if anything is not as it should be.
    pub fn stop(mut self) -> Result<Account, Error> {
        let account = self.wait_for_rest()?;
        self.end()?;
        Ok(account)
    }

    /// Asks the run to end when its requests are done; [`Proxy::end`] waits for that.
    ///
    /// # Panics
    ///
    /// After its end.
    pub fn drain(&mut self) {
        self.run.as_mut().expect("the run has not been stopped").process().signal(Signal::SIGINT);
        self.draining = true;
    }

    /// Ends the run, whatever is under way; answers the line of its balance.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if it does not end well, or does not account for every request.
    pub fn end(&mut self) -> Result<String, Error> {
        let Some(mut run) = self.run.take() else { unreachable!("a run ends once") };
        // A second request to stop would end it without draining; this signal does nothing to a process that runs.
        let output = run.end_with(if self.draining { Signal::SIGCONT } else { Signal::SIGINT })?;
        let log = &output.stderr;
        let fail = |what: String| Error::Run { name: run.name().to_owned(), what: format!("{what}; its log:\n{log}") };
        if !output.status.success() {
            return Err(fail(format!("ended with {}", output.status)));
        }
        let line = log.lines().rev().find_map(|line| line.split_once("stopped: "));
        let (_, line) = line.ok_or_else(|| fail("no balance at its end".into()))?;
        if !line.contains(" requests received = ") || !line.ends_with(" 0 under way") {
            return Err(fail("requests are missing".into()));
        }
        Ok(line.to_owned())
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(run) = &self.run
            && let Ok(status) = run.status()
        {
            let mut chain = status.0["messages"]["chains"][0].clone();
            chain["latency"].take();
            eprintln!("its requests: {chain}\nits upstreams: {}", status.0["messages"]["upstreams"]);
        }
    }
}

fn account(status: &RunStatus) -> Account {
    Account(status.0["messages"].clone())
}

fn serves(status: &RunStatus) -> bool {
    status.state() == "running" && status.0["messages"].is_object()
}
