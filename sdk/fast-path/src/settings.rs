//! What counts for a fast path as a whole.

/// Instances of a function that have a place among the settings.
pub const MOST_INSTANCES: u16 = 1024;

/// Entries of the map.
pub(crate) const SETTINGS: u32 = 2 + MOST_INSTANCES as u32;
/// Bytes of `struct fast_settings`.
pub(crate) const SETTINGS_BYTES: usize = 16;

/// `struct fast_settings`. It is in the map several times, once for each that writes it, so that nobody writes over what another has
/// written: [`SettingsOf`] says what counts where. The rest is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Flows of another one are void.
    pub generation: u32,
    /// Which policy the flows are of: a number of the function's own.
    pub policy: u32,
    /// The lowest number of a rule that a port names, and one; 0 if ports name none. About packets that
    /// may have ports and do not show them, rules of higher numbers do not decide, unless they drop them.
    pub first_port_rule: u32,
    /// 1 as soon as the function has written what it has, 0 before.
    pub ready: u32,
}

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsOf {
    /// Generation and policy; any instance writes them.
    Flows,
    /// The first rule of a port, and whether the function is ready; the first instance writes them.
    Rules,
    /// The `generation` of an instance: which one of those that have followed each other is at work. Each writes its own.
    Instance(u16),
}

impl SettingsOf {
    /// The key; of an instance beyond [`MOST_INSTANCES`] one that the map does not have.
    pub const fn key(self) -> [u8; 4] {
        match self {
            Self::Flows => 0_u32.to_ne_bytes(),
            Self::Rules => 1_u32.to_ne_bytes(),
            Self::Instance(number) => (2 + number as u32).to_ne_bytes(),
        }
    }
}

impl Settings {
    /// Their bytes.
    pub fn encode(&self) -> [u8; SETTINGS_BYTES] {
        let words = [self.generation, self.policy, self.first_port_rule, self.ready];
        let mut bytes = [0; SETTINGS_BYTES];
        bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_ne_bytes());
        bytes
    }

    /// What such bytes say.
    pub fn decode(bytes: &[u8; SETTINGS_BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { generation: word(0), policy: word(4), first_port_rule: word(8), ready: word(12) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_map() {
        let settings = Settings { generation: 1, policy: 2, first_port_rule: 3, ready: 4 };
        assert_eq!(Settings::decode(&settings.encode()), settings);
        assert_eq!(SettingsOf::Instance(MOST_INSTANCES - 1).key(), (SETTINGS - 1).to_ne_bytes());
    }
}
