//! Link (MAC) addresses as configurations write them.

use middlenet_sdk::wire::MacAddr;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;

/// A link address in a configuration, written `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LinkAddress(pub MacAddr);

impl JsonSchema for LinkAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LinkAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$" })
    }
}

impl LinkAddress {
    /// The six bytes.
    pub fn octets(self) -> [u8; 6] {
        self.0.octets()
    }
}

impl TryFrom<String> for LinkAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("`{text}` is no link address; write it like 02:00:00:00:00:01"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_named_in_the_error() {
        let right: LinkAddress = serde_json::from_str("\"02:00:5e:00:53:Ff\"").unwrap();
        assert_eq!(right.octets(), [2, 0, 0x5e, 0, 0x53, 0xff]);
        let wrong = serde_json::from_str::<LinkAddress>("\"02:00:5e\"").unwrap_err().to_string();
        assert!(wrong.contains("`02:00:5e`"), "{wrong}");
    }
}
