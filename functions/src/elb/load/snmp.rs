//! CPU load by SNMP v2c: one datagram each way (RFC 3416).

use serde::{Deserialize, Serialize};
use snmp2::{MessageType, Oid, Pdu, Value, asn1, snmp};

/// A community is short in practice; a datagram has to hold it.
const MAX_COMMUNITY: usize = 255;
/// Processors that an answer may list.
const MAX_PROCESSORS: u8 = 127;
/// Set in the numbers of requests, so that all have four bytes.
const NUMBERED: i32 = 1 << 30;

/// The load by SNMP v2c.
#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnmpLoad {
    /// The community, which servers take for a password. It travels in the clear.
    #[serde(default = "community")]
    pub community: String,
    /// The agents' UDP port.
    #[serde(default = "port")]
    pub port: u16,
    /// What is asked for.
    #[serde(default)]
    pub metric: Metric,
}

/// A measure of CPU load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// UCD-SNMP-MIB `ssCpuIdle.0`, 1.3.6.1.4.1.2021.11.11.0: percent of time that processors were idle, over the last minute.
    #[default]
    SsCpuIdle,
    /// HOST-RESOURCES-MIB `hrProcessorLoad`, 1.3.6.1.2.1.25.3.3.1.2 (RFC 2790): percent of time that each processor was busy, over the
    /// last minute. The load is the mean of all.
    HrProcessorLoad,
}

fn community() -> String {
    "public".into()
}

const fn port() -> u16 {
    161
}

impl Metric {
    /// The object's identifier, and as BER has it (X.690, 8.19).
    const fn oid(self) -> (&'static [u64], &'static [u8]) {
        match self {
            Self::SsCpuIdle => (
                &[1, 3, 6, 1, 4, 1, 2021, 11, 11, 0],
                &[asn1::TYPE_OBJECTIDENTIFIER, 10, 0x2b, 6, 1, 4, 1, 0x8f, 0x65, 11, 11, 0],
            ),
            Self::HrProcessorLoad => (
                &[1, 3, 6, 1, 2, 1, 25, 3, 3, 1, 2],
                &[asn1::TYPE_OBJECTIDENTIFIER, 10, 0x2b, 6, 1, 2, 1, 25, 3, 3, 1, 2],
            ),
        }
    }
}

/// Type, length and contents (X.690, 8.1).
fn element(kind: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    let mut bytes = match length {
        0..0x80 => vec![kind, length as u8],
        _ => vec![kind, 0x82, (length >> 8) as u8, length as u8],
    };
    contents.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

impl SnmpLoad {
    /// What is wrong with it, if anything.
    pub(in super::super) fn problem(&self) -> Option<String> {
        if self.community.len() > MAX_COMMUNITY {
            return Some(format!("`community` has more than {MAX_COMMUNITY} bytes"));
        }
        (self.port == 0).then(|| "`port` of `snmp` is 0".into())
    }

    /// A request with this number, which is below 2^30.
    pub(in super::super) fn request(&self, number: i32) -> Vec<u8> {
        let (kind, rows) = match self.metric {
            Metric::SsCpuIdle => (snmp::MSG_GET, 0),
            // One row per processor, whose numbers are the agent's.
            Metric::HrProcessorLoad => (snmp::MSG_GET_BULK, MAX_PROCESSORS),
        };
        let (_, oid) = self.metric.oid();
        let binding = element(asn1::TYPE_SEQUENCE, &[oid, &[asn1::TYPE_NULL, 0]]);
        let bindings = element(asn1::TYPE_SEQUENCE, &[&binding]);
        let number = element(asn1::TYPE_INTEGER, &[&(number | NUMBERED).to_be_bytes()]);
        // Of a GET, error status and index; of a GETBULK, rows that are asked for once, and most rows.
        let numbers = [asn1::TYPE_INTEGER, 1, 0, asn1::TYPE_INTEGER, 1, rows];
        let pdu = element(kind, &[&number, &numbers, &bindings]);
        let community = element(asn1::TYPE_OCTETSTRING, &[self.community.as_bytes()]);
        let version = [asn1::TYPE_INTEGER, 1, snmp2::Version::V2C as u8];
        element(asn1::TYPE_SEQUENCE, &[&version, &community, &pdu])
    }

    /// The load, from 0 to 1, that an answer to that request tells. None: it is no answer to it, or does not tell.
    pub(in super::super) fn load(&self, answer: &[u8], number: i32) -> Option<f64> {
        let pdu = Pdu::from_bytes(answer).ok()?;
        let is_answer =
            pdu.message_type == MessageType::Response && pdu.req_id == number | NUMBERED && pdu.error_status == 0;
        if !is_answer || pdu.community != self.community.as_bytes() {
            return None;
        }
        let percents = pdu.varbinds.clone().filter_map(|(oid, value)| self.percent(&oid, &value));
        let (count, sum) = percents.fold((0, 0.0), |(count, sum), percent| (count + 1, sum + percent));
        let mean = (count > 0).then(|| sum / f64::from(count) / 100.0)?;
        Some(match self.metric {
            Metric::SsCpuIdle => 1.0 - mean,
            Metric::HrProcessorLoad => mean,
        })
    }

    fn percent(&self, oid: &Oid<'_>, value: &Value<'_>) -> Option<f64> {
        let (asked, _) = self.metric.oid();
        let told: Vec<u64> = oid.iter()?.collect();
        let begins_alike = told.starts_with(asked);
        let rows = usize::from(self.metric == Metric::HrProcessorLoad);
        if !begins_alike || told.len() != asked.len() + rows {
            return None;
        }
        let percent = match *value {
            Value::Integer(percent) => percent,
            Value::Unsigned32(percent) => percent.into(),
            _ => return None,
        };
        (0..=100).contains(&percent).then_some(percent as f64)
    }
}

/// For tests: an agent's answer to the request with this number, with these objects, by the last parts of their identifiers.
#[cfg(test)]
pub(in super::super) fn response(load: &SnmpLoad, number: i32, objects: &[(&[u8], u8)]) -> Vec<u8> {
    let (_, asked) = load.metric.oid();
    let bindings: Vec<u8> = objects
        .iter()
        .flat_map(|(row, value)| {
            let oid = element(asn1::TYPE_OBJECTIDENTIFIER, &[&asked[2..], row]);
            element(asn1::TYPE_SEQUENCE, &[&oid, &[asn1::TYPE_INTEGER, 1, *value]])
        })
        .collect();
    let number = element(asn1::TYPE_INTEGER, &[&(number | NUMBERED).to_be_bytes()]);
    let bindings = element(asn1::TYPE_SEQUENCE, &[&bindings]);
    let pdu = element(snmp::MSG_RESPONSE, &[&number, &[2, 1, 0, 2, 1, 0], &bindings]);
    let community = element(asn1::TYPE_OCTETSTRING, &[load.community.as_bytes()]);
    element(asn1::TYPE_SEQUENCE, &[&[2, 1, 1], &community, &pdu])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(metric: Metric) -> SnmpLoad {
        SnmpLoad { community: "public".into(), port: 161, metric }
    }

    #[test]
    fn a_request_is_read_as_it_was_meant() {
        let get = load(Metric::SsCpuIdle).request(5);
        let pdu = Pdu::from_bytes(&get).unwrap();
        assert_eq!(
            (pdu.message_type, pdu.req_id, pdu.community),
            (MessageType::GetRequest, NUMBERED | 5, &b"public"[..])
        );
        let (oid, value) = pdu.varbinds.clone().next().unwrap();
        assert_eq!((oid.to_id_string().as_str(), matches!(value, Value::Null)), ("1.3.6.1.4.1.2021.11.11.0", true));
        let long = SnmpLoad { community: "x".repeat(200), ..load(Metric::HrProcessorLoad) }.request(5);
        let pdu = Pdu::from_bytes(&long).unwrap();
        assert_eq!((pdu.message_type, pdu.community.len()), (MessageType::GetBulkRequest, 200));
        // In a GETBULK, these are the rows asked for once, and most rows.
        assert_eq!((pdu.error_status, pdu.error_index), (0, u32::from(MAX_PROCESSORS)));
        assert_eq!(pdu.varbinds.clone().next().unwrap().0.to_id_string(), "1.3.6.1.2.1.25.3.3.1.2");
    }

    #[test]
    fn loads_are_read() {
        let idle = load(Metric::SsCpuIdle);
        let answer = response(&idle, 7, &[(&[], 30)]);
        assert!((idle.load(&answer, 7).unwrap() - 0.7).abs() < 1e-9);
        assert_eq!(idle.load(&answer, 8), None, "to another request");
        let stranger = SnmpLoad { community: "secret".into(), ..idle.clone() };
        assert_eq!(idle.load(&response(&stranger, 7, &[(&[], 30)]), 7), None);
        assert_eq!(idle.load(&response(&idle, 7, &[(&[], 120)]), 7), None);
        assert_eq!(idle.load(&response(&idle, 7, &[(&[1], 30)]), 7), None, "of another object");
        assert_eq!(idle.load(&response(&idle, 7, &[]), 7), None);
        let busy = load(Metric::HrProcessorLoad);
        let other = load(Metric::SsCpuIdle);
        // Rows 196608 and 196609, as the kernel's processors are numbered there.
        let answer = response(&busy, 7, &[(&[0x8c, 0x80, 0], 20), (&[0x8c, 0x80, 1], 60)]);
        assert!((busy.load(&answer, 7).unwrap() - 0.4).abs() < 1e-9);
        assert_eq!(busy.load(&response(&other, 7, &[(&[], 30)]), 7), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..60, byte: u8) {
            let load = load(Metric::SsCpuIdle);
            load.load(&bytes, 7);
            let mut answer = response(&load, 7, &[(&[], 30)]);
            let last = answer.len() - 1;
            answer[at.min(last)] = byte;
            load.load(&answer, 7);
        }
    }
}
