//! What the translator counts, and why it drops.

use middlenet_sdk::prelude::*;

pub(super) struct Counters {
    pub(super) outbound: Counter,
    pub(super) inbound: Counter,
    pub(super) hairpinned: Counter,
    pub(super) icmp_errors: Counter,
    pub(super) unsolicited: Counter,
    pub(super) exhausted: Counter,
    pub(super) host_limited: Counter,
    pub(super) no_session: Counter,
    pub(super) untranslatable: Counter,
    pub(super) sessions: Counter,
    pub(super) mappings: Counter,
    pub(super) hosts: Counter,
}

pub(super) struct Reasons {
    pub(super) unsolicited: DropReason,
    pub(super) exhausted: DropReason,
    pub(super) host_limit: DropReason,
    pub(super) no_session: DropReason,
    pub(super) fragment: DropReason,
}

impl Counters {
    pub(super) fn new(init: &mut Init) -> Self {
        Self {
            outbound: init.counter("outbound", "packets translated on the way out"),
            inbound: init.counter("inbound", "packets translated on the way in"),
            hairpinned: init.counter("hairpinned", "packets between inside hosts by outside addresses"),
            icmp_errors: init.counter("icmp-errors", "ICMP errors translated with what they quote"),
            unsolicited: init.counter("unsolicited", "packets from outside that no mapping wants"),
            exhausted: init.counter("exhausted", "packets refused for want of an outside port or of table space"),
            host_limited: init.counter("host-limited", "packets refused because their host has its share"),
            no_session: init.counter("no-session", "packets that neither begin nor belong to a session"),
            untranslatable: init.counter("untranslatable", "malformed packets, other protocols, lone fragments"),
            sessions: init.gauge("sessions", "sessions in the table"),
            mappings: init.gauge("mappings", "outside ports in use, forwards included"),
            hosts: init.gauge("hosts", "inside hosts with sessions"),
        }
    }
}

impl Reasons {
    pub(super) fn new(init: &mut Init) -> Self {
        Self {
            unsolicited: init.drop_reason("unsolicited", "from outside, and no mapping wants it"),
            exhausted: init.drop_reason("ports-exhausted", "no outside port is free"),
            host_limit: init.drop_reason("host-limit", "the inside host has its share of ports or sessions"),
            no_session: init.drop_reason("no-session", "neither begins nor belongs to a session"),
            fragment: init
                .drop_reason("fragment-unknown", "fragment whose first fragment was not translated before it"),
        }
    }
}
