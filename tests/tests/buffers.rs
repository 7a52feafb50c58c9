//! Message buffers are few: who is slow keeps none from others, also where functions look at every byte.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_tests::{Error, Netns, Proxy, Transport, Upstream, Wire, over, require_root, wait_until};

const UPSTREAM: &str = "127.0.0.1:9001";
const SLOW: &str = "127.0.0.1:9002";

/// Makes what the kernel keeps of a connection small, so that a slow peer is felt soon.
fn small_sockets(netns: &Netns) -> Result<(), Error> {
    let script = "for of in tcp_rmem tcp_wmem; do echo 4096 16384 65536 > /proc/sys/net/ipv4/$of; done";
    netns.exec("sh", ["-c", script]).map(drop)
}

/// A chain with a function that looks at bodies, 64 buffers, and a server of its own for `/slow`.
fn few_buffers<'n>(netns: &'n Netns, transport: Transport) -> Result<Proxy<'n>, Error> {
    let run = env!("CARGO_BIN_EXE_middlenet-test-touch");
    let touch = format!("touch: {{ run: {run}, config: {{ mode: upper }} }}");
    let router =
        format!("router: {{ rules: [{{ path: /slow, upstream: '{SLOW}' }}], default: {{ upstream: '{UPSTREAM}' }} }}");
    let memory = "memory: { messages: 64 }";
    Proxy::start_with(netns, transport, &[Proxy::EDIT, &touch, &router], &[], memory)
}

/// Waits until a count of bytes stands still: what the kernel takes is full.
fn settle(proxy: &Proxy<'_>, count: &str) -> Result<(), Error> {
    let last = Cell::new(0);
    let since = Cell::new(Instant::now());
    proxy.wait_for("nothing to move", |account| {
        let now = account.count(count);
        if last.replace(now) != now {
            since.set(Instant::now());
        }
        now > 0 && since.get().elapsed() > Duration::from_millis(500)
    })?;
    Ok(())
}

/// Wants others to be served while 100 are slow.
fn others_are_served(proxy: &Proxy<'_>) -> Result<(), Error> {
    let began = Instant::now();
    for _ in 0..20 {
        proxy.serves_well()?;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn clients_that_do_not_read_keep_none() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        small_sockets(netns)?;
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let _large = Upstream::start(netns, SLOW, |visit| {
            while visit.request()?.is_some() {
                visit.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                // Chunks of which several fit a buffer.
                let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
                visit.wire.send(format!("{}0\r\n\r\n", chunk.repeat(500)))?;
            }
            Ok(())
        })?;
        let proxy = few_buffers(netns, transport)?;
        let mut clients = (0..100).map(|_| proxy.client()).collect::<Result<Vec<Wire>, _>>()?;
        clients.iter_mut().try_for_each(|c| c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))?;
        settle(&proxy, "sent_bytes")?;
        others_are_served(&proxy)?;
        for client in &mut clients {
            let response = client.response()?;
            assert!(response.body.len() == 500_000 && response.body.iter().all(|b| *b == b'X'));
        }
        drop(clients);
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn servers_that_do_not_read_keep_none() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        small_sockets(netns)?;
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let go = Arc::new(AtomicBool::new(false));
        let may_go = Arc::clone(&go);
        let _deaf = Upstream::start(netns, SLOW, move |visit| {
            wait_until("the word", Duration::from_secs(60), || may_go.load(Ordering::SeqCst))?;
            while let Some(request) = visit.request()? {
                let whole = request.body.iter().all(|b| *b == b'X');
                visit.answer(format!("{} {whole}", request.body.len()))?;
            }
            Ok(())
        })?;
        let proxy = few_buffers(netns, transport)?;
        let mut clients = (0..100).map(|_| proxy.client()).collect::<Result<Vec<Wire>, _>>()?;
        // Chunks of which several fit a buffer.
        let body = format!("{}0\r\n\r\n", format!("3e8\r\n{}\r\n", "x".repeat(1000)).repeat(500));
        let mut sent = Vec::new();
        for client in &mut clients {
            client.send("POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            sent.push(client.send_some(&body)?);
        }
        settle(&proxy, "received_bytes")?;
        others_are_served(&proxy)?;
        go.store(true, Ordering::SeqCst);
        for (client, sent) in clients.iter_mut().zip(sent) {
            client.send(&body[sent..])?;
            assert_eq!(client.response()?.text(), "500000 TRUE");
        }
        drop(clients);
        proxy.stop()?;
        Ok(())
    })
}
