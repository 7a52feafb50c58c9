//! Clients that go away, in every phase of a request.

use std::time::Duration;

use middlenet_tests::{
    Account, End, Ended, Error, Netns, Proxy, Transport, Upstream, Veth, over, require_root, wait_until,
};

const UPSTREAM: &str = "127.0.0.1:9001";
const SOON: Duration = Duration::from_secs(10);

/// A client that goes: in peace, or by taking the connection away. Its request is the `nth`, if it has begun one.
fn gone(proxy: &Proxy<'_>, sends: &str, abort: bool, nth: u64) -> Result<(), Error> {
    let mut client = proxy.client()?;
    client.send(sends)?;
    // A reset would take with it what has not been read.
    proxy.wait_for("its bytes to be read", |account| account.count("received") == nth)?;
    if abort {
        client.abort();
    }
    Ok(())
}

fn aborted(n: u64) -> impl Fn(&Account) -> bool {
    move |account| account.count("aborted") == n && account.rests() && account.count("open_connections") == 0
}

#[test]
fn in_the_head_or_the_body() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let cases = [
            "G",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: ",
        ];
        let mut count = 0;
        for case in cases {
            for abort in [false, true] {
                count += 1;
                gone(&proxy, case, abort, count)?;
                proxy.wait_for("the end to be noticed", aborted(count))?;
            }
        }
        // Without a byte there is no request.
        gone(&proxy, "", false, count)?;
        wait_until("the upstream to be left", SOON, || upstream.open() == 0)?;
        assert!(upstream.requests().is_empty(), "half a request is none");
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!((account.count("aborted"), account.count("received")), (count, count + 1));
        assert_eq!(account.upstream(UPSTREAM)["failures"], 0, "the upstream is not to blame");
        Ok(())
    })
}

#[test]
fn while_the_upstream_is_being_connected() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let nobody = Netns::new("hole")?;
        let _cable = Veth::between(&End::new(netns, "hole").address("192.0.2.1/24"), &End::new(&nobody, "eth0"))?;
        netns.exec("ip", ["neigh", "replace", "192.0.2.9", "lladdr", "02:00:00:00:00:99", "dev", "hole"])?;
        let proxy = Proxy::three(netns, transport, "192.0.2.9:80", &["timeouts: { connect_ms: 60000 }"])?;
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        proxy.wait_for("the connection to be tried", |a| a.upstream("192.0.2.9:80")["active"] == 1)?;
        client.abort();
        drop(client);
        let account = proxy.wait_for("the end to be noticed", aborted(1))?;
        assert_eq!(account.upstream("192.0.2.9:80")["active"], 0);
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn before_or_within_the_response() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                match request.target() {
                    "/never" => return visit.wire.rest().map(drop),
                    "/endless" => {
                        visit.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
                        for _ in 0..1000 {
                            visit.wire.send(vec![b'x'; 1_000_000])?;
                        }
                    }
                    _ => visit.answer("ok")?,
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n")?;
        wait_until("the request to arrive", SOON, || upstream.requests().len() == 1)?;
        client.abort();
        drop(client);
        proxy.wait_for("the end to be noticed", aborted(1))?;
        wait_until("the upstream to be left", SOON, || upstream.open() == 0)?;
        for abort in [false, true] {
            let mut client = proxy.client()?;
            client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")?;
            client.response_head()?;
            client.take(100_000)?;
            if abort {
                client.abort();
            }
            drop(client);
            proxy.wait_for("the end to be noticed", aborted(2 + u64::from(abort)))?;
            wait_until("the upstream to be left", SOON, || upstream.open() == 0)?;
        }
        proxy.serves_well()?;
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn while_a_function_has_the_request_or_the_response() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let run = env!("CARGO_BIN_EXE_middlenet-test-touch");
        let touch = format!("touch: {{ run: {run}, config: {{ mode: slow }} }}");
        let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
        let proxy = Proxy::start(netns, transport, &[Proxy::EDIT, &touch, &proxy], &[])?;
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        proxy.wait_for("the function to have it", |a| a.0["buffers_held"] == 1)?;
        client.abort();
        drop(client);
        proxy.wait_for("the end to be noticed", aborted(1))?;
        assert!(upstream.requests().is_empty());
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        wait_until("the request to arrive", SOON, || upstream.requests().len() == 1)?;
        proxy.wait_for("the function to have the response", |a| a.0["buffers_held"] == 1)?;
        client.abort();
        drop(client);
        proxy.wait_for("the end to be noticed", aborted(2))?;
        proxy.serves_well()?;
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn in_a_tunnel() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.wire.send("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
            if visit.number % 2 == 1 {
                visit.wire.take(1)?;
                visit.wire.abort();
                return Ok(());
            }
            visit.wire.rest().map(drop)
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for n in 0..4 {
            let mut client = proxy.client()?;
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")?;
            assert_eq!(client.response_head()?.status(), 101);
            client.send("x")?;
            if n % 2 == 1 {
                assert!(matches!(client.end()?, Ended::Closed | Ended::Reset));
            } else {
                client.abort();
                drop(client);
            }
            wait_until("the upstream to be left", SOON, || upstream.open() == 0)?;
        }
        let account = proxy.stop()?;
        assert_eq!((account.count("upgrades"), account.count("answered")), (4, 4));
        Ok(())
    })
}
