//! CPU load by SNMP v2c: one datagram each way (RFC 3416).

use serde::Deserialize;
use snmp2::pdu::Buf;
use snmp2::{MessageType, Oid, Pdu, Value, asn1, snmp};

/// A community is short in practice; a datagram has to hold it.
const MAX_COMMUNITY: usize = 255;
/// Processors that an answer may list.
const MAX_PROCESSORS: i64 = 256;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
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
    const fn oid(self) -> &'static [u32] {
        match self {
            Self::SsCpuIdle => &[1, 3, 6, 1, 4, 1, 2021, 11, 11, 0],
            Self::HrProcessorLoad => &[1, 3, 6, 1, 2, 1, 25, 3, 3, 1, 2],
        }
    }
}

impl SnmpLoad {
    /// What is wrong with it, if anything.
    pub(in super::super) fn problem(&self) -> Option<String> {
        if self.community.len() > MAX_COMMUNITY {
            return Some(format!("`community` has more than {MAX_COMMUNITY} bytes"));
        }
        (self.port == 0).then(|| "`port` of `snmp` is 0".into())
    }

    /// A request with this number.
    pub(in super::super) fn request(&self, number: i32) -> Vec<u8> {
        let (kind, first, second) = match self.metric {
            Metric::SsCpuIdle => (snmp::MSG_GET, 0, 0),
            // One row per processor, whose numbers are the agent's.
            Metric::HrProcessorLoad => (snmp::MSG_GET_BULK, 0, MAX_PROCESSORS),
        };
        let mut buffer = Buf::default();
        // It is written from its end.
        buffer.push_sequence(|message| {
            message.push_constructed(kind, |pdu| {
                pdu.push_sequence(|bindings| {
                    bindings.push_sequence(|binding| {
                        binding.push_null();
                        binding.push_object_identifier(self.metric.oid());
                    });
                });
                pdu.push_integer(second);
                pdu.push_integer(first);
                pdu.push_integer(number.into());
            });
            message.push_octet_string(self.community.as_bytes());
            message.push_integer(snmp2::Version::V2C as i64);
        });
        buffer.to_vec()
    }

    /// The load, from 0 to 1, that an answer to that request tells. None: it is no answer to it, or does not tell.
    pub(in super::super) fn load(&self, answer: &[u8], number: i32) -> Option<f64> {
        let pdu = Pdu::from_bytes(answer).ok()?;
        let is_answer = pdu.message_type == MessageType::Response && pdu.req_id == number && pdu.error_status == 0;
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
        let asked = self.metric.oid();
        let told: Vec<u64> = oid.iter()?.collect();
        let begins_alike = told.len() >= asked.len() && told.iter().zip(asked).all(|(told, &asked)| *told == u64::from(asked));
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

/// For tests: an agent's answer with these bindings.
#[cfg(test)]
pub(in super::super) fn response(community: &str, number: i32, bindings: &[(&[u32], i64)]) -> Vec<u8> {
    let mut buffer = Buf::default();
    buffer.push_sequence(|message| {
        message.push_constructed(snmp::MSG_RESPONSE, |pdu| {
            pdu.push_sequence(|list| {
                for (oid, value) in bindings.iter().rev() {
                    list.push_sequence(|binding| {
                        binding.push_integer(*value);
                        binding.push_object_identifier(oid);
                    });
                }
            });
            pdu.push_integer(0);
            pdu.push_integer(0);
            pdu.push_integer(number.into());
        });
        message.push_octet_string(community.as_bytes());
        message.push_integer(1);
    });
    buffer.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(metric: Metric) -> SnmpLoad {
        SnmpLoad { community: "public".into(), port: 161, metric }
    }

    #[test]
    fn a_request_is_what_net_snmp_sends() {
        // snmpget -v2c -c public HOST 1.3.6.1.4.1.2021.11.11.0
        let expected = [
            0x30, 0x29, 2, 1, 1, 4, 6, b'p', b'u', b'b', b'l', b'i', b'c', 0xa0, 0x1c, 2, 4, 0x12, 0x34, 0x56, 0x78, 2,
            1, 0, 2, 1, 0, 0x30, 0x0e, 0x30, 0x0c, 6, 8, 0x2b, 6, 1, 4, 1, 0x8f, 0x65, 0x0b,
        ];
        let request = load(Metric::SsCpuIdle).request(0x1234_5678);
        assert_eq!(request[2..13], expected[2..13]);
        let pdu = Pdu::from_bytes(&request).unwrap();
        assert_eq!((pdu.message_type, pdu.req_id, pdu.community), (MessageType::GetRequest, 0x1234_5678, &b"public"[..]));
        let (oid, _) = pdu.varbinds.clone().next().unwrap();
        assert_eq!(oid.to_id_string(), "1.3.6.1.4.1.2021.11.11.0");
        let bulk = load(Metric::HrProcessorLoad).request(1);
        assert_eq!(Pdu::from_bytes(&bulk).unwrap().message_type, MessageType::GetBulkRequest);
    }

    #[test]
    fn loads_are_read() {
        let idle = load(Metric::SsCpuIdle);
        let answer = response("public", 7, &[(Metric::SsCpuIdle.oid(), 30)]);
        assert!((idle.load(&answer, 7).unwrap() - 0.7).abs() < 1e-9);
        assert_eq!(idle.load(&answer, 8), None, "to another request");
        assert_eq!(idle.load(&response("secret", 7, &[(Metric::SsCpuIdle.oid(), 30)]), 7), None);
        assert_eq!(idle.load(&response("public", 7, &[(Metric::SsCpuIdle.oid(), 130)]), 7), None);
        assert_eq!(idle.load(&response("public", 7, &[(&[1, 3, 6, 1], 30)]), 7), None);
        let busy = load(Metric::HrProcessorLoad);
        let row = |n: u32| [Metric::HrProcessorLoad.oid(), &[n]].concat();
        let (one, two, next) = (row(196_608), row(196_609), [1, 3, 6, 1, 2, 1, 25, 3, 4, 1]);
        let answer = response("public", 7, &[(&one, 20), (&two, 60), (&next, 5)]);
        assert!((busy.load(&answer, 7).unwrap() - 0.4).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..60, byte: u8) {
            let load = load(Metric::SsCpuIdle);
            load.load(&bytes, 7);
            let mut answer = response("public", 7, &[(Metric::SsCpuIdle.oid(), 30)]);
            let last = answer.len() - 1;
            answer[at.min(last)] = byte;
            load.load(&answer, 7);
        }
    }
}
