//! Any request that the parser lets pass, through every function of layer L4/L7: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_functions::registry;
use middlenet_sdk::http::{Limits, Method};
use middlenet_sdk::middlebox::{
    Board, Context, DATA_OFFSET, DynMiddlebox, Kind, MESSAGE_BYTES, Message, MessageHeader, NO_HOP, Timers,
};
use middlenet_sdk::shm::{Buffers, Descriptor, Pages, Region};
use middlenet_sdk::Init;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

struct Chain {
    functions: Vec<Box<dyn DynMiddlebox>>,
    buffers: Buffers,
    board: Board,
    timers: Timers,
    requests: u64,
}

thread_local! {
    static CHAIN: RefCell<Chain> = RefCell::new(Chain::new());
}

fn configs() -> Vec<(&'static str, Value)> {
    let two = json!(["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 3}]);
    vec![
        ("access-log", json!({"format": "combined", "file": "/dev/null"})),
        ("access-log", json!({"format": "json", "file": "/dev/null"})),
        ("header-edit", json!({
            "request": [
                {"remove_prefix": "x"}, {"set": {"name": "a", "value": "$host$path$header(cookie)$client_ip"}},
                {"add": {"name": "b", "value": "$header(a)$request_id"}}, {"remove": "accept"},
            ],
            "response": [{"set": {"name": "a", "value": "$header(b)"}}, {"remove_prefix": "x"}],
        })),
        ("http-rate-limit", json!({"rate": 1000, "headers": true, "buckets": 16})),
        ("http-rate-limit", json!({"rate": 10, "key": ["host", "path", "header a", "cookie a"], "buckets": 16})),
        ("reverse-proxy", json!({"upstreams": two, "sticky": {"cookie": "a"}, "host": "upstream"})),
        ("reverse-proxy", json!({"upstreams": two, "balance": "consistent-hash", "hash_key": "cookie a", "max_load": 1.1})),
        ("reverse-proxy", json!({"upstreams": two, "balance": "least-connections", "set_headers": {"a": "$path"}})),
        ("router", json!({
            "rules": [
                {"host": ["*.a", "b"], "path": "/", "respond": {"status": 200}},
                {"prefix": "/a", "headers": [{"name": "a", "regex": "a+$"}], "upstream": "10.0.0.1:80"},
                {"regex": "^/(a|b)*c", "query": [{"name": "a", "value": "b"}], "respond": {"status": 404, "body": "no"}},
            ],
            "default": {"upstreams": two},
        })),
        ("url-rewrite", json!({"rules": [
            {"match": "^/(.*)a(.*)$", "to": "/$2.$1", "continue": true}, {"prefix": "/a/", "to": "/", "continue": true},
            {"match": "b(.*)$", "to": "/$1", "redirect": 302}, {"match": "^(.*)c", "to": "$1?"},
        ]})),
        ("url-rewrite", json!({"rules": [{"match": "\\?(.*)$", "to": "/$1"}], "with_query": true})),
    ]
}

impl Chain {
    fn new() -> Self {
        let create = |(name, config): (&str, Value)| {
            let registration = registry().iter().find(|r| r.name == name).expect("it is registered");
            registration.create_middlebox(config, &mut Init::default()).expect("a good configuration")
        };
        let region = Region::create("fuzz", MESSAGE_BYTES, Pages::Small).expect("a region");
        Self {
            functions: configs().into_iter().map(create).collect(),
            buffers: Buffers::new(Arc::new(region), MESSAGE_BYTES as u32).expect("a buffer"),
            board: Board::default(),
            timers: Timers::default(),
            requests: 0,
        }
    }

    /// Shows the bytes as a message of that kind to each function, one after the other as in a chain.
    fn show(&mut self, kind: Kind, bytes: &[u8]) {
        let mut descriptor = Descriptor::default();
        let mut message = Message::new(self.buffers.room_mut(&mut descriptor));
        let (kind_code, request) = (kind as u8, self.requests);
        *message.header_mut() =
            MessageHeader { kind: kind_code, request, jump: NO_HOP, tail: DATA_OFFSET as u16, ..MessageHeader::default() };
        message.header_mut().set_addresses(([192, 0, 2, request as u8], 1).into(), ([192, 0, 2, 80], 80).into());
        message.data_mut()[..bytes.len()].copy_from_slice(bytes);
        let is_whole = match kind {
            Kind::RequestHead => matches!(message.read_request(0, bytes.len(), &Limits::default()), Ok(Some(_))),
            Kind::ResponseHead => {
                matches!(message.read_response(0, bytes.len(), Method::Get, &Limits::default()), Ok(Some(_)))
            }
            _ => true,
        };
        if !is_whole {
            return;
        }
        for (position, function) in self.functions.iter_mut().enumerate() {
            if function.interests().wants(kind) {
                let header = *message.header();
                let mut context = Context::of(&header, Duration::from_millis(request), &self.board, &mut self.timers);
                let verdict = function.handle(&mut message, &mut context);
                // Answers and routes go on as well: what a later function sees need not be what a client can send.
                message.apply(verdict, position as u8);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(8192)];
    CHAIN.with_borrow_mut(|chain| {
        chain.requests += 1;
        chain.board.publish(chain.requests as usize % 2, chain.requests % 3 > 0, chain.requests as u32 % 7);
        chain.show(Kind::RequestHead, bytes);
        chain.show(Kind::ResponseHead, bytes);
        chain.show(Kind::Finished, &[]);
        let Chain { functions, board, timers, requests, .. } = chain;
        for function in functions {
            function.tick(&mut Context::new(Duration::from_millis(*requests), board, timers));
        }
    });
});
