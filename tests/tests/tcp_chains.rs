//! Chains of bytes: `protocol: tcp`.

use std::time::Duration;

use middlenet_tests::{Ended, Error, Proxy, Transport, Upstream, over, require_root, wait_until};

const FIRST: &str = "127.0.0.1:9001";
const SECOND: &str = "127.0.0.1:9002";
const PROXY: &str = "tcp-proxy: { upstreams: ['127.0.0.1:9001', '127.0.0.1:9002'] }";
const SOON: Duration = Duration::from_secs(15);

fn text(length: usize) -> Vec<u8> {
    (0..=255).cycle().take(length).collect()
}

#[test]
fn bytes_go_both_ways_and_each_side_ends_when_it_likes() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        // The first hears all before it speaks; the second speaks, ends, and then hears all.
        let first = Upstream::start(netns, FIRST, |visit| {
            let (bytes, ended) = visit.wire.rest()?;
            assert_eq!(ended, Ended::Closed);
            visit.note_body(bytes.clone());
            visit.wire.send(bytes)
        })?;
        let second = Upstream::start(netns, SECOND, |visit| {
            visit.wire.send(text(2_000_000))?;
            visit.wire.finish();
            let (bytes, ended) = visit.wire.rest()?;
            assert_eq!(ended, Ended::Closed);
            visit.note_body(bytes);
            Ok(())
        })?;
        let proxy = Proxy::start(netns, transport, &[PROXY], &["protocol: tcp"])?;
        let mut client = proxy.client()?;
        let said = text(2_000_000);
        client.send(&said)?;
        client.finish();
        let (heard, ended) = client.rest()?;
        assert!(heard == said && ended == Ended::Closed, "{} bytes, {ended:?}", heard.len());
        let mut client = proxy.client()?;
        let (heard, ended) = client.rest()?;
        assert!(heard == said && ended == Ended::Closed, "{} bytes, {ended:?}", heard.len());
        client.send(&said)?;
        client.finish();
        wait_until("the second to have heard all", SOON, || second.requests().len() == 1)?;
        assert!(second.requests()[0].body == said);
        assert_eq!(first.requests().len(), 1);
        let account = proxy.stop()?;
        assert_eq!((account.count("received"), account.count("answered")), (2, 2));
        Ok(())
    })
}

#[test]
fn a_connection_in_which_nothing_moves_is_closed_on_both_sides() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, FIRST, |visit| visit.wire.rest().map(drop))?;
        let _second = Upstream::start(netns, SECOND, |visit| visit.wire.rest().map(drop))?;
        let proxy = Proxy::start(netns, transport, &[PROXY], &["protocol: tcp", "timeouts: { idle_ms: 400 }"])?;
        let mut client = proxy.client()?;
        client.send("x")?;
        client.end()?;
        wait_until("the end at the upstream", SOON, || upstream.open() == 0)?;
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn an_upstream_that_is_down_is_passed_over() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let second = Upstream::start(netns, SECOND, |visit| {
            let (bytes, _) = visit.wire.rest()?;
            visit.wire.send(bytes)
        })?;
        let proxy = Proxy::start(netns, transport, &[PROXY], &["protocol: tcp", "upstream: { health: { fall: 2 } }"])?;
        for _ in 0..8 {
            let mut client = proxy.client()?;
            client.send("hello")?;
            client.finish();
            assert_eq!(client.rest()?, (b"hello".to_vec(), Ended::Closed));
        }
        assert_eq!(second.connections(), 8);
        drop(second);
        let mut client = proxy.client()?;
        let _ = client.send("hello");
        let (bytes, _) = client.rest()?;
        assert_eq!(bytes, b"", "no answer of the broker's own in somebody else's protocol");
        let account = proxy.stop()?;
        assert_eq!((account.count("answered"), account.reason("failed", "connect")), (8, 1));
        Ok(())
    })
}

/// A reset on one side ends the other.
#[test]
fn resets_end_both_sides() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, FIRST, |visit| {
            if visit.wire.take(1)? == b"r" {
                visit.wire.abort();
                return Ok(());
            }
            visit.wire.rest().map(drop)
        })?;
        let proxy = format!("tcp-proxy: {{ upstreams: ['{FIRST}'] }}");
        let proxy = Proxy::start(netns, transport, &[&proxy], &["protocol: tcp"])?;
        let mut client = proxy.client()?;
        client.send("r")?;
        client.end()?;
        let mut client = proxy.client()?;
        client.send("x")?;
        wait_until("the upstream's connection", SOON, || upstream.open() == 1)?;
        client.abort();
        drop(client);
        wait_until("its end", SOON, || upstream.open() == 0)?;
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn functions_see_and_change_the_bytes() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let _upstream = Upstream::start(netns, FIRST, |visit| {
            let (bytes, _) = visit.wire.rest()?;
            visit.wire.send(bytes.to_ascii_lowercase())
        })?;
        for (mode, said, heard) in
            [("upper", "hello", "HELLO"), ("stretch", "abcdefgh", "aaaabcdefgh"), ("glance", "x", "")]
        {
            let run = env!("CARGO_BIN_EXE_middlenet-test-touch");
            let touch = format!("touch: {{ run: {run}, config: {{ mode: {mode} }} }}");
            let proxy = format!("tcp-proxy: {{ upstreams: ['{FIRST}'] }}");
            let proxy = Proxy::start(netns, transport, &[&touch, &proxy], &["protocol: tcp"])?;
            let mut client = proxy.client()?;
            client.send(said.repeat(100_000))?;
            client.finish();
            let (bytes, ended) = client.rest()?;
            assert_eq!(ended, Ended::Closed);
            if mode == "glance" {
                assert_eq!(bytes.len(), 100_000);
                assert_eq!(proxy.run().status()?.counter("touch", "pieces"), 1);
            } else {
                assert!(bytes == heard.repeat(100_000).as_bytes(), "{mode}: {} bytes came back", bytes.len());
            }
            let account = proxy.wait_for_rest()?;
            assert_eq!(account.count("answered"), 1);
            proxy.stop()?;
        }
        Ok(())
    })
}

#[test]
fn a_function_may_close_a_connection() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = Upstream::start(netns, FIRST, |visit| {
            let (bytes, _) = visit.wire.rest()?;
            visit.note_body(bytes);
            Ok(())
        })?;
        let run = env!("CARGO_BIN_EXE_middlenet-test-touch");
        let touch = format!("touch: {{ run: {run}, config: {{ mode: judge }} }}");
        let proxy = format!("tcp-proxy: {{ upstreams: ['{FIRST}'] }}");
        let proxy = Proxy::start(netns, transport, &[&touch, &proxy], &["protocol: tcp"])?;
        let mut client = proxy.client()?;
        client.send("fine so far")?;
        assert!(client.stays_silent(Duration::from_millis(100)));
        client.send("please close")?;
        client.end()?;
        wait_until("its end", SOON, || upstream.requests().len() == 1)?;
        assert_eq!(upstream.requests()[0].text(), "fine so far");
        let account = proxy.stop()?;
        assert_eq!(account.reason("rejected", "closed-by-function"), 1);
        Ok(())
    })
}
