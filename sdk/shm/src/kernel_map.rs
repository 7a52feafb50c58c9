//! Maps of the kernel (BPF) whose descriptors were passed: their elements are read and written by bpf(2), which needs no privilege for
//! a descriptor that one has.
//!
//! The kernel writes as many bytes as the map's own sizes say, which this side cannot ask for (`BPF_OBJ_GET_INFO_BY_FD` is among
//! the commands that functions may not use). So whatever it writes goes to memory that ends at a page without access: a
//! map that is not what the caller said makes the call fail with EFAULT, and nothing else is overwritten.

mod guarded;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use guarded::Guarded;

/// Commands of bpf(2) that functions may use: those on elements.
pub mod command {
    /// `BPF_MAP_LOOKUP_ELEM`
    pub const LOOKUP: u32 = 1;
    /// `BPF_MAP_UPDATE_ELEM`
    pub const UPDATE: u32 = 2;
    /// `BPF_MAP_DELETE_ELEM`
    pub const DELETE: u32 = 3;
    /// `BPF_MAP_GET_NEXT_KEY`
    pub const NEXT_KEY: u32 = 4;
    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`
    pub const TAKE: u32 = 21;
    /// `BPF_MAP_LOOKUP_BATCH`
    pub const LOOKUP_BATCH: u32 = 24;
    /// `BPF_MAP_UPDATE_BATCH`
    pub const UPDATE_BATCH: u32 = 26;
    /// `BPF_MAP_DELETE_BATCH`
    pub const DELETE_BATCH: u32 = 27;

    /// All of them.
    pub const ALL: [u32; 8] = [LOOKUP, UPDATE, DELETE, NEXT_KEY, TAKE, LOOKUP_BATCH, UPDATE_BATCH, DELETE_BATCH];
}

/// The sizes of a map's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSizes {
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of a value, of one processor where each has its own.
    pub value_bytes: usize,
    /// Whether each processor has a value of its own; for arrays alone.
    pub is_per_processor: bool,
}

/// Whether an element may be there before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Write {
    /// It may or may not.
    #[default]
    Any,
    /// It must not: else the error is `AlreadyExists`.
    New,
    /// It must: else the error is `NotFound`.
    Existing,
}

/// How far a call on several elements came.
#[derive(Debug)]
pub struct Batch {
    /// Elements that were written or deleted: the first ones of those that were given.
    pub done: usize,
    /// What hindered the next one.
    pub result: io::Result<()>,
}

/// What [`KernelMap::lookup_batch`] has read.
#[derive(Debug)]
pub struct Elements<'a> {
    /// Keys behind one another.
    pub keys: &'a [u8],
    /// Values behind one another; of each element those of all processors, if they have their own.
    pub values: &'a [u8],
    /// Whether there are no more.
    pub is_last: bool,
}

/// A map of the kernel.
#[derive(Debug)]
pub struct KernelMap {
    fd: OwnedFd,
    key_bytes: usize,
    /// Of all processors together.
    value_bytes: usize,
    most: usize,
    keys: Guarded,
    values: Guarded,
    cursor: Guarded,
}

/// `union bpf_attr` for calls on one element.
#[repr(C)]
#[derive(Default)]
struct One {
    map_fd: u32,
    padding: u32,
    key: u64,
    value_or_next_key: u64,
    flags: u64,
}

/// The same for calls on several.
#[repr(C)]
#[derive(Default)]
struct Many {
    in_cursor: u64,
    out_cursor: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Processors that a host has at most (`CONFIG_NR_CPUS` of the largest ones).
const MOST_PROCESSORS: usize = 8192;

/// Hash tables give at least so many elements at once, or none: one bucket's. A chain is that long when half of the keys that someone can
/// choose are in one bucket.
const LEAST_IN_BATCH: usize = 256;

impl KernelMap {
    /// The map behind a descriptor, for calls on up to `most` elements at once.
    ///
    /// # Errors
    /// `InvalidInput` for a size of 0; what the kernel says if there is no memory, or if a map with values of each processor cannot be read.
    pub fn new(fd: OwnedFd, sizes: MapSizes, most: usize) -> io::Result<Self> {
        let MapSizes { key_bytes, value_bytes, is_per_processor } = sizes;
        let most = most.max(LEAST_IN_BATCH);
        if key_bytes == 0 || value_bytes == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let values =
            if is_per_processor { value_bytes.next_multiple_of(8) * MOST_PROCESSORS } else { value_bytes * most };
        let mut map = Self {
            fd,
            key_bytes,
            value_bytes,
            most,
            keys: Guarded::new(key_bytes * most)?,
            values: Guarded::new(values)?,
            // A hash table's cursor is the number of a bucket, other maps' a key.
            cursor: Guarded::new(key_bytes.max(4))?,
        };
        if is_per_processor {
            map.value_bytes = map.measure(value_bytes.next_multiple_of(8))?;
            map.values = Guarded::new(map.value_bytes * most)?;
        }
        Ok(map)
    }

    /// How long the first element's value is, of all processors: as long as it must be for the kernel not to meet the page without
    /// access. How many processors a host can have is written where a confined process does not look.
    fn measure(&mut self, of_one: usize) -> io::Result<usize> {
        let first = vec![0; self.key_bytes];
        for processors in 1..=MOST_PROCESSORS {
            self.value_bytes = of_one * processors;
            match self.lookup(&first) {
                Ok(Some(_)) => return Ok(self.value_bytes),
                Ok(None) => return Err(io::ErrorKind::NotFound.into()),
                Err(e) if e.raw_os_error() == Some(libc::EFAULT) => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// Bytes of a value, of all processors together.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The value of a key. In a trie, that of the longest prefix which holds the key.
    ///
    /// # Errors
    /// `InvalidInput` for a key of another length; else what the kernel says.
    pub fn lookup(&mut self, key: &[u8]) -> io::Result<Option<&[u8]>> {
        self.read_one(command::LOOKUP, key)
    }

    /// Writes an element.
    ///
    /// # Errors
    /// `InvalidInput` for a key or value of another length; else what the kernel says, E2BIG if the map is full.
    pub fn update(&mut self, key: &[u8], value: &[u8], write: Write) -> io::Result<()> {
        self.check(key)?;
        if value.len() != self.value_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.one(command::UPDATE, key, value.as_ptr() as u64, write as u64)
    }

    /// Deletes an element; whether it was there.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); maps that are arrays refuse it.
    pub fn delete(&mut self, key: &[u8]) -> io::Result<bool> {
        self.check(key)?;
        match self.one(command::DELETE, key, 0, 0) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes an element of a hash table, at once with reading its last value.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); other maps refuse it.
    pub fn take(&mut self, key: &[u8]) -> io::Result<Option<&[u8]>> {
        self.read_one(command::TAKE, key)
    }

    /// The key that follows one, in the map's own order; the first one without any, or after one that is no more.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn next_key(&mut self, key: Option<&[u8]>) -> io::Result<Option<&[u8]>> {
        key.map_or(Ok(()), |key| self.check(key))?;
        let next = self.keys.last(self.key_bytes);
        match self.one(command::NEXT_KEY, key.unwrap_or_default(), next as u64, 0) {
            Ok(()) => Ok(Some(self.keys.read(self.key_bytes, self.key_bytes))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads up to `most` elements after the cursor (at least 256 are asked for), and moves it; an empty one is at the beginning. Elements that come
    /// and go meanwhile may be there or not; those that stay are read once.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor that no call has made; else what the kernel says.
    pub fn lookup_batch(&mut self, cursor: &mut Vec<u8>, most: usize) -> io::Result<Elements<'_>> {
        let cursor_bytes = self.key_bytes.max(4);
        if !(cursor.is_empty() || cursor.len() == cursor_bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let asked = most.clamp(LEAST_IN_BATCH, self.most);
        let mut many = Many {
            in_cursor: if cursor.is_empty() { 0 } else { cursor.as_ptr() as u64 },
            // Keys of tries and arrays are written from here on, numbers of buckets take the first four bytes.
            out_cursor: self.cursor.last(cursor_bytes) as u64,
            keys: self.keys.last(asked * self.key_bytes) as u64,
            values: self.values.last(asked * self.value_bytes) as u64,
            count: asked as u32,
            map_fd: self.raw_fd(),
            ..Many::default()
        };
        // SAFETY: the kernel reads the cursor, of `cursor_bytes`, which is all that it reads of a map of these sizes. It writes keys,
        // values and the next cursor only to `Guarded` memory that ends at a page without access. All outlive the call.
        let result = unsafe { bpf(command::LOOKUP_BATCH, &mut many) };
        let is_last = match result {
            Ok(()) => false,
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(e) => return Err(e),
        };
        let read = (many.count as usize).min(asked);
        cursor.clear();
        cursor.extend(self.cursor.read(cursor_bytes, cursor_bytes));
        Ok(Elements {
            keys: self.keys.read(asked * self.key_bytes, read * self.key_bytes),
            values: self.values.read(asked * self.value_bytes, read * self.value_bytes),
            is_last,
        })
    }

    /// Writes elements in order, whether they are there or not.
    pub fn update_batch(&mut self, keys: &[u8], values: &[u8]) -> Batch {
        let count = keys.len() / self.key_bytes;
        if keys.len() != count * self.key_bytes || values.len() != count * self.value_bytes {
            return Batch { done: 0, result: Err(io::ErrorKind::InvalidInput.into()) };
        }
        self.many(command::UPDATE_BATCH, count, keys, values)
    }

    /// Deletes elements in order, up to one that is not there (`NotFound`).
    pub fn delete_batch(&mut self, keys: &[u8]) -> Batch {
        let count = keys.len() / self.key_bytes;
        if keys.len() != count * self.key_bytes {
            return Batch { done: 0, result: Err(io::ErrorKind::InvalidInput.into()) };
        }
        self.many(command::DELETE_BATCH, count, keys, &[])
    }

    fn read_one(&mut self, command: u32, key: &[u8]) -> io::Result<Option<&[u8]>> {
        self.check(key)?;
        let value = self.values.last(self.value_bytes);
        match self.one(command, key, value as u64, 0) {
            Ok(()) => Ok(Some(self.values.read(self.value_bytes, self.value_bytes))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn many(&self, command: u32, count: usize, keys: &[u8], values: &[u8]) -> Batch {
        let Ok(count) = u32::try_from(count) else {
            return Batch { done: 0, result: Err(io::ErrorKind::InvalidInput.into()) };
        };
        if count == 0 {
            return Batch { done: 0, result: Ok(()) };
        }
        let mut many = Many {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count,
            map_fd: self.raw_fd(),
            ..Many::default()
        };
        // SAFETY: both commands only read what keys and values point to, which outlives the call; a map with other sizes than ours has
        // bytes read that lie behind, which the kernel refuses or copies, and nothing here sees.
        let result = unsafe { bpf(command, &mut many) };
        let done = if result.is_ok() { count } else { many.count.min(count) };
        Batch { done: done as usize, result }
    }

    fn one(&self, command: u32, key: &[u8], value_or_next_key: u64, flags: u64) -> io::Result<()> {
        let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
        let mut one = One { map_fd: self.raw_fd(), padding: 0, key, value_or_next_key, flags };
        // SAFETY: the kernel reads the key, which outlives the call. What it writes is the value of a look-up or the next key, for which
        // callers pass an address in `Guarded` memory; the value of an update is read, and outlives the call as well.
        unsafe { bpf(command, &mut one) }
    }

    fn check(&self, key: &[u8]) -> io::Result<()> {
        if key.len() == self.key_bytes { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn raw_fd(&self) -> u32 {
        self.fd.as_raw_fd().unsigned_abs()
    }
}

/// bpf(2).
///
/// # Safety
/// Whatever addresses the attributes hold are good for what the command does with them.
unsafe fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: the attributes are as large as said, and plain data; the rest is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut T, size_of::<T>()) };
        match result {
            0.. => return Ok(()),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
}

#[cfg(test)]
mod tests;
