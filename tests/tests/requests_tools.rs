//! The tools that people measure with, through three functions: they see no failure, and both sides count the same.

use middlenet_tests::{Error, Runtime, Web, require_root};

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(word));
    let line = line.unwrap_or_else(|| panic!("no `{word}` in {text}"));
    let digits: String = line.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("`{word}` is followed by `{line}`"))
}

fn tools(how: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let run = Runtime::start(&web.host, &Web::manifest(how, &[Web::PROXY, Web::REWRITE, Web::EDIT]))?;
    let url = format!("http://{}/old/page", Web::ADDRESS);
    let mut answered = 0;
    for clients in ["1", "8", "64", "512"] {
        for keep in [true, false] {
            let requests: u64 = if keep { 3000 } else { 1500 };
            let wanted = requests.to_string();
            let mut arguments = vec!["-q", "-n", &wanted, "-c", clients];
            if keep {
                arguments.push("-k");
            }
            arguments.push(&url);
            let text = web.host.exec("ab", &arguments)?.stdout;
            assert_eq!(number(&text, "Complete requests:"), requests, "{text}");
            assert_eq!(number(&text, "Failed requests:"), 0, "{text}");
            assert!(!text.contains("Non-2xx"), "{text}");
            if keep {
                assert_eq!(number(&text, "Keep-Alive requests:"), requests, "{text}");
            }
            // It opens no more connections than it needs, but sends on some that it then leaves.
            let account = run.wait_for_requests_to_rest()?.account("web");
            assert_eq!((account.rejected, account.failed), (0, 0), "ab {arguments:?}");
            assert!(account.answered >= answered + requests, "{account:?}");
            answered = account.answered;
        }
        let text = web.host.exec("wrk", ["-t1", "-d1", &format!("-c{clients}"), "--timeout", "10s", &url])?.stdout;
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
        let total = text.lines().find(|line| line.contains(" requests in ")).unwrap_or_default();
        let total: u64 = total.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a total");
        let account = run.wait_for_requests_to_rest()?.account("web");
        assert_eq!((account.rejected, account.failed), (0, 0), "wrk {clients}");
        // At its end it leaves at most one request on each connection.
        let clients: u64 = clients.parse().unwrap();
        let ended = account.answered + account.aborted - answered;
        println!("wrk -c{clients}: {total} requests");
        assert!(total > 0, "{text}");
        assert!((total..=total + clients).contains(&ended), "{total} by wrk, {ended} here: {account:?}");
        answered = account.answered;
    }
    let status = run.stop_requests()?;
    let seen: u64 = web.backends.iter().map(|backend| backend.requests()).sum();
    let account = status.account("web");
    assert!((account.answered..=account.received).contains(&seen), "{account:?}, the backends saw {seen}");
    Ok(())
}

#[test]
fn tools_inline() -> Result<(), Error> {
    require_root!(Ok(()));
    tools("    placement: inline\n")
}

#[test]
fn tools_on_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    tools(&Web::processes("skmsg"))
}

#[test]
fn tools_on_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    tools(&Web::processes("ring"))
}
