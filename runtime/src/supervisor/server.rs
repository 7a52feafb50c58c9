//! The control socket. A client can be slow, silent or hostile: it waits, and nobody waits for it.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::{Supervisor, log};
use crate::api::{IDLE, LINE_BYTES, Request, Response};

/// Clients at a time; the next one is let in when one has gone.
const CLIENT_LIMIT: usize = 32;
/// Bytes read from a client in one turn, so that others get theirs.
const READ_BYTES: usize = 256 << 10;
/// How long an answer may lie unread.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    next: u64,
}

#[derive(Debug)]
struct Client {
    id: u64,
    stream: UnixStream,
    input: Vec<u8>,
    /// Whether a whole line is in `input`.
    has_line: bool,
    output: Vec<u8>,
    /// A request of it is being worked on: no further one is read.
    busy: bool,
    last: Instant,
    gone: bool,
}

impl Server {
    /// Listens where only the owner can connect. The lock on the run's name says that a socket left there is dead.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let _ = fs::remove_file(path);
        // The mode is set before anybody knows that somebody listens: connecting needs the file's permission.
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), next: 0 })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Clients to be polled, and for what.
    pub(super) fn clients(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().map(|c| {
            let reads = if c.busy || !c.output.is_empty() { PollFlags::empty() } else { PollFlags::POLLIN };
            let writes = if c.output.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            (c.id, c.stream.as_fd(), reads | writes)
        })
    }

    pub(super) fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.clients.len() >= CLIENT_LIMIT || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.next += 1;
        self.clients.push(Client {
            id: self.next,
            stream,
            input: Vec::new(),
            has_line: false,
            output: Vec::new(),
            busy: false,
            last: Instant::now(),
            gone: false,
        });
    }

    /// Cuts off who is gone, silent, or does not read. Returns who sent a further request before its answer.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<u64> {
        self.clients.retain(|c| {
            let silent = now.saturating_duration_since(c.last);
            let patience = if c.output.is_empty() { IDLE } else { WRITE_PATIENCE };
            !c.gone && (c.busy || silent < patience)
        });
        let waits = |c: &&Client| !c.busy && c.output.is_empty() && c.has_line;
        self.clients.iter().filter(waits).map(|c| c.id).collect()
    }

    /// Reads and writes what can be; returns a request if one is complete.
    fn serve(&mut self, id: u64) -> Option<Result<Request, String>> {
        let client = self.clients.iter_mut().find(|c| c.id == id)?;
        client.write();
        if client.busy {
            // Woken all the same: it hung up. Its answer goes nowhere.
            client.gone = true;
            return None;
        }
        if !client.output.is_empty() {
            return None;
        }
        if !client.has_line {
            client.read();
        }
        client.take_line()
    }

    fn answer(&mut self, id: u64, response: &Response) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id) else { return };
        client.busy = false;
        match serde_json::to_vec(response) {
            Ok(mut line) => {
                line.push(b'\n');
                client.output = line;
                client.write();
            }
            Err(e) => {
                log(format_args!("an answer could not be written: {e}"));
                client.gone = true;
            }
        }
    }
}

impl Client {
    fn read(&mut self) {
        let mut room = vec![0; READ_BYTES];
        match self.stream.read(&mut room) {
            Ok(0) => self.gone = true,
            Ok(n) => {
                // Looking only at what is new keeps a long line linear.
                self.has_line = room[..n].contains(&b'\n');
                self.input.extend_from_slice(&room[..n]);
                self.last = Instant::now();
                self.gone = !self.has_line && self.input.len() > LINE_BYTES;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    fn take_line(&mut self) -> Option<Result<Request, String>> {
        let end = self.input.iter().position(|&b| b == b'\n').filter(|_| self.has_line)?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        self.has_line = self.input.contains(&b'\n');
        self.busy = true;
        Some(serde_json::from_slice(&line).map_err(|e| format!("that is no request: {e}")))
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => break,
                Ok(n) => {
                    self.output.drain(..n);
                    self.last = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
    }
}

impl Supervisor {
    pub(super) fn take_client(&mut self, id: u64) {
        let Some(request) = self.server.as_mut().and_then(|s| s.serve(id)) else { return };
        let response = match request {
            Err(message) => Some(Response::Failed { message, hint: None }),
            Ok(Request::Status { reports }) => {
                self.begin_status(Some(id), reports);
                None
            }
            Ok(Request::Apply { manifest, folder }) => self.apply(id, &manifest, &folder),
            Ok(Request::Replace { chain, function }) => self.replace(id, &chain, &function),
            Ok(Request::Stop) => {
                log("asked to stop: draining");
                self.answer(id, &Response::Stopping);
                self.stop();
                None
            }
        };
        if let Some(response) = response {
            self.answer(id, &response);
        }
    }

    pub(super) fn answer(&mut self, client: u64, response: &Response) {
        if let Some(server) = &mut self.server {
            server.answer(client, response);
        }
    }
}
