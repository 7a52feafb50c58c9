//! First bytes of well-known protocols, for tests of whoever classifies.

/// A request for a page.
pub fn http_request(host: &str) -> Vec<u8> {
    format!("GET /index.html HTTP/1.1\r\nHost: {host}\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// The head of an answer, and the beginning of a page.
pub fn http_response() -> Vec<u8> {
    let page = "<html><body>a page</body></html>";
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}", page.len()).into_bytes()
}

/// A question for an IPv4 address.
pub fn dns_query(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(question(name));
    message
}

/// The answer to [`dns_query`].
pub fn dns_response(name: &str, address: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    message.extend(question(name));
    // The name of the question, type and class, a minute, four bytes.
    message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(address);
    message
}

fn question(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The first message of a TLS 1.2 client that names the server (RFC 5246 section 7.4.1.2, RFC 6066 section 3).
pub fn tls_client_hello(server: &str) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let name = [&[0][..], &long(server.as_bytes())].concat();
    let server_name = [&[0, 0][..], &long(&long(&name))].concat();
    let groups = [&[0, 10][..], &long(&long(&[0, 29, 0, 23]))].concat();
    let signatures = [&[0, 13][..], &long(&long(&[4, 3, 8, 4]))].concat();
    let extensions = [server_name, groups, signatures].concat();
    let hello = [
        &[3, 3][..],
        &[0x5a; 32],
        // No session; two ciphers; no compression.
        &[0],
        &long(&[0xc0, 0x2f, 0x00, 0x9c]),
        &[1, 0],
        &long(&extensions),
    ]
    .concat();
    let handshake = [&[1, 0][..], &long(&hello)].concat();
    [&[22, 3, 1][..], &long(&handshake)].concat()
}

/// What a BitTorrent client says first.
pub fn bittorrent_handshake() -> Vec<u8> {
    [&[19][..], b"BitTorrent protocol", &[0; 8], &[0x42; 20], b"-TR3000-abcdefghijkl"].concat()
}
