//! Things by number, where a number is reused but a reference to what had it before is not mistaken for it.

/// Boxes by slot; each can be taken out while it is worked on.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    used: bool,
    value: Option<Box<T>>,
}

/// A slot and which of its occupants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Generations that fit a token.
const GENERATIONS: u32 = 1 << 24;

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Puts something in, made from its key.
    pub(crate) fn insert(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, used: false, value: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[slot as usize];
        let key = Key { slot, generation: entry.generation };
        entry.used = true;
        entry.value = Some(Box::new(make(key)));
        key
    }

    /// Takes it out to work on it; nothing if it is gone, or taken out already.
    #[inline]
    pub(crate) fn take(&mut self, key: Key) -> Option<Box<T>> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.take() } else { None }
    }

    /// Looks at it in its place.
    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation == key.generation { entry.value.as_deref_mut() } else { None }
    }

    /// Puts back what was taken out.
    #[inline]
    pub(crate) fn put(&mut self, key: Key, value: Box<T>) {
        let entry = &mut self.entries[key.slot as usize];
        debug_assert!(entry.used && entry.generation == key.generation && entry.value.is_none());
        entry.value = Some(value);
    }

    /// Gives up a slot whose value was taken out.
    pub(crate) fn release(&mut self, key: Key) {
        let entry = &mut self.entries[key.slot as usize];
        if !entry.used || entry.generation != key.generation {
            return;
        }
        entry.used = false;
        entry.value = None;
        entry.generation = (entry.generation + 1) % GENERATIONS;
        self.free.push(key.slot);
    }

    /// Keys of all that are in.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let used = self.entries.iter().enumerate().filter(|(_, e)| e.used);
        used.map(|(slot, e)| Key { slot: slot as u32, generation: e.generation })
    }

    /// Slots there are, used or not.
    pub(crate) fn slots(&self) -> usize {
        self.entries.len()
    }

    /// What is in a slot now.
    pub(crate) fn at(&self, slot: usize) -> Option<&T> {
        self.entries.get(slot)?.value.as_deref()
    }

    /// How many are in.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_find_the_new_occupant() {
        let mut slab = Slab::new();
        let first = slab.insert(|_| "first");
        assert_eq!(slab.take(first).as_deref(), Some(&"first"));
        assert!(slab.take(first).is_none(), "taken out already");
        slab.release(first);
        let second = slab.insert(|_| "second");
        assert_eq!(first.slot, second.slot);
        assert!(slab.take(first).is_none());
        slab.release(first);
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
    }
}
