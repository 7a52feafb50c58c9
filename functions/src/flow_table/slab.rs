//! Slots of a fixed number that are taken and given back.

/// Up to `capacity` values in numbered slots. Memory is reserved at the start, and touched as slots are first used.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    capacity: usize,
    cursor: usize,
}

impl<T> Slab<T> {
    /// An empty slab.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity), capacity, cursor: 0 }
    }

    /// Slots taken.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Slots there are.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether every slot is taken.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Slots that have ever been taken: those a walk over the slab must visit.
    pub(crate) fn high_water(&self) -> usize {
        self.slots.len()
    }

    /// The value in a slot.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The value in a slot, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Takes a free slot; `None` when there is none.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            *self.slots.get_mut(slot as usize)? = Some(value);
            return Some(slot);
        }
        if self.slots.len() >= self.capacity {
            return None;
        }
        self.slots.push(Some(value));
        u32::try_from(self.slots.len() - 1).ok()
    }

    /// Frees a slot.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(value)
    }

    /// The next slot of an endless walk over those that have ever been taken.
    pub(crate) fn next_slot(&mut self) -> u32 {
        self.cursor = if self.cursor + 1 < self.slots.len() { self.cursor + 1 } else { 0 };
        self.cursor as u32
    }
}
