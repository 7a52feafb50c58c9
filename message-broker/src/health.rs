//! Active health checks: a thread of their own, so that a slow upstream delays no request.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::upstream::Upstream;

/// Bytes of a check's response that are read; its status is in the first line.
const RESPONSE_BYTES: usize = 1024;

/// The checks of all upstreams; they end with it.
pub(crate) struct Checks {
    upstreams: UnboundedSender<Weak<Upstream>>,
}

impl Checks {
    pub(crate) fn start(began: Instant) -> std::io::Result<Self> {
        let (upstreams, coming) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("health".into()).spawn(move || runtime.block_on(run(coming, began)))?;
        Ok(Self { upstreams })
    }

    /// Checks an upstream from now on, if its chain says so.
    pub(crate) fn watch(&self, upstream: &Arc<Upstream>) {
        if upstream.settings.interval_ms > 0 {
            // The thread lives as long as this sender.
            let _ = self.upstreams.send(Arc::downgrade(upstream));
        }
    }
}

async fn run(mut coming: UnboundedReceiver<Weak<Upstream>>, began: Instant) {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            while let Some(upstream) = coming.recv().await {
                tokio::task::spawn_local(watch(upstream, began));
            }
        })
        .await;
}

/// Checks one upstream until it is gone.
async fn watch(upstream: Weak<Upstream>, began: Instant) {
    while let Some(state) = upstream.upgrade() {
        let settings = &state.settings;
        let patience = Duration::from_millis(settings.timeout_ms.max(1));
        let fine = tokio::time::timeout(patience, check(&state)).await.unwrap_or(false);
        if fine {
            state.succeeded(true);
        } else {
            state.failed(true, began.elapsed().as_millis() as u64);
        }
        let interval = Duration::from_millis(settings.interval_ms);
        drop(state);
        tokio::time::sleep(interval).await;
    }
}

/// One check: whether it can be reached, and answers well if there is a path to ask for.
async fn check(upstream: &Upstream) -> bool {
    let Ok(mut stream) = TcpStream::connect(upstream.address).await else { return false };
    let Some(path) = &upstream.settings.path else { return true };
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: middlenet-health\r\nconnection: close\r\n\r\n",
        upstream.address
    );
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut response = [0; RESPONSE_BYTES];
    let mut filled = 0;
    loop {
        match stream.read(&mut response[filled..]).await {
            Ok(0) | Err(_) => return is_fine(&response[..filled]),
            Ok(n) => filled += n,
        }
        if response[..filled].contains(&b'\n') || filled == RESPONSE_BYTES {
            return is_fine(&response[..filled]);
        }
    }
}

/// Whether a status line says 2xx or 3xx.
fn is_fine(response: &[u8]) -> bool {
    let status = response.strip_prefix(b"HTTP/1.1 ").or_else(|| response.strip_prefix(b"HTTP/1.0 "));
    matches!(status, Some([b'2' | b'3', b'0'..=b'9', b'0'..=b'9', b' ' | b'\r', ..]))
}

#[cfg(test)]
mod tests {
    use super::is_fine;

    #[test]
    fn only_2xx_and_3xx_are_fine() {
        assert!(is_fine(b"HTTP/1.1 200 OK\r\n") && is_fine(b"HTTP/1.0 302 Found\r\n") && is_fine(b"HTTP/1.1 204\r\n"));
        for bad in [&b"HTTP/1.1 500 Oops\r\n"[..], b"HTTP/1.1 2000 \r\n", b"HTTP/1.1 20", b"SSH-2.0\r\n", b""] {
            assert!(!is_fine(bad), "{bad:?}");
        }
    }
}
