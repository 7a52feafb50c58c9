//! The maps of a fast path, in the kernel or in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use middlenet_fast_path::{MapKind, Shape};

/// Entries that one call writes or reads at most.
pub(super) const MOST: usize = 4096;

/// Entries that are asked for at least when a hash table is read: the kernel gives them by buckets.
pub(super) const LEAST: usize = 256;

/// Reads and writes entries. Keys and values lie behind one another, with the lengths of [`MapKind::key_bytes`] and
/// [`MapKind::value_bytes`]; values of maps with one for each processor are all of them.
pub(super) trait Store: Debug + Send {
    /// The value of a key.
    fn get(&mut self, kind: MapKind, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Writes entries in order. How many were written, and what hindered the next one.
    fn put(&mut self, kind: MapKind, keys: &[u8], values: &[u8]) -> (usize, io::Result<()>);

    /// Deletes entries, as far as they are there; how many were.
    fn delete(&mut self, kind: MapKind, keys: &[u8]) -> io::Result<usize>;

    /// Deletes an entry of a hash table, at once with reading its last value.
    fn take(&mut self, kind: MapKind, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Writes an entry unless the key has one.
    fn put_back(&mut self, kind: MapKind, key: &[u8], value: &[u8]) -> io::Result<()>;

    /// Appends up to `most` entries that follow the page's cursor, and moves it.
    fn read(&mut self, kind: MapKind, most: usize, page: &mut Page) -> io::Result<()>;
}

/// Some entries of a map, and where the next ones are.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) keys: Vec<u8>,
    pub(super) values: Vec<u8>,
    /// Where to go on, in the store's own terms; empty: at the beginning.
    pub(super) cursor: Vec<u8>,
    /// There are no more.
    pub(super) is_last: bool,
}

/// All entries of a map.
pub(super) fn read_all(store: &mut dyn Store, kind: MapKind) -> io::Result<Page> {
    let mut page = Page::default();
    while !page.is_last {
        store.read(kind, MOST, &mut page)?;
    }
    Ok(page)
}

/// Maps in memory, which hold what the kernel's would.
#[derive(Debug)]
pub(super) struct Memory {
    shape: Shape,
    maps: Vec<(MapKind, Map)>,
}

#[derive(Debug)]
enum Map {
    /// Values that were written; the others are zeros.
    Array(BTreeMap<u32, Vec<u8>>),
    /// Values with the time of their last use.
    Tree(BTreeMap<Vec<u8>, (Vec<u8>, u64)>, u64),
}

impl Memory {
    pub(super) fn new(shape: Shape) -> Self {
        let make = |kind: MapKind| match kind.is_array() {
            true => Map::Array(BTreeMap::new()),
            false => Map::Tree(BTreeMap::new(), 0),
        };
        Self { shape, maps: shape.maps().map(|kind| (kind, make(kind))).collect() }
    }

    fn map(&mut self, kind: MapKind) -> io::Result<&mut Map> {
        let map = self.maps.iter_mut().find(|(of, _)| *of == kind);
        map.map(|(_, map)| map).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put_one(&mut self, kind: MapKind, key: &[u8], value: &[u8]) -> io::Result<()> {
        let most = self.shape.entries(kind);
        match self.map(kind)? {
            Map::Array(values) => {
                let at = index(key).filter(|&at| at < most).ok_or_else(full)?;
                values.insert(at, value.to_vec());
            }
            Map::Tree(entries, clock) => {
                *clock += 1;
                if entries.len() >= most as usize && !entries.contains_key(key) {
                    if kind != MapKind::Flows {
                        return Err(full());
                    }
                    let oldest = entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
                    oldest.and_then(|key| entries.remove(&key));
                }
                entries.insert(key.to_vec(), (value.to_vec(), *clock));
            }
        }
        Ok(())
    }
}

fn index(key: &[u8]) -> Option<u32> {
    key.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// What the kernel says of a full map.
fn full() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::E2BIG)
}

impl Store for Memory {
    fn get(&mut self, kind: MapKind, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let most = self.shape.entries(kind);
        Ok(match self.map(kind)? {
            Map::Array(values) => index(key)
                .filter(|&at| at < most)
                .map(|at| values.get(&at).cloned().unwrap_or_else(|| vec![0; kind.value_bytes()])),
            // Look-ups by system calls do not count as use; packets do, and those write.
            Map::Tree(entries, _) => entries.get(key).map(|(value, _)| value.clone()),
        })
    }

    fn put(&mut self, kind: MapKind, keys: &[u8], values: &[u8]) -> (usize, io::Result<()>) {
        let entries = keys.chunks_exact(kind.key_bytes()).zip(values.chunks_exact(kind.value_bytes()));
        for (at, (key, value)) in entries.enumerate() {
            if let Err(e) = self.put_one(kind, key, value) {
                return (at, Err(e));
            }
        }
        (keys.len() / kind.key_bytes(), Ok(()))
    }

    fn delete(&mut self, kind: MapKind, keys: &[u8]) -> io::Result<usize> {
        let Map::Tree(entries, _) = self.map(kind)? else { return Err(io::ErrorKind::InvalidInput.into()) };
        Ok(keys.chunks_exact(kind.key_bytes()).filter(|&key| entries.remove(key).is_some()).count())
    }

    fn take(&mut self, kind: MapKind, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Map::Tree(entries, _) = self.map(kind)? else { return Err(io::ErrorKind::InvalidInput.into()) };
        Ok(entries.remove(key).map(|(value, _)| value))
    }

    fn put_back(&mut self, kind: MapKind, key: &[u8], value: &[u8]) -> io::Result<()> {
        match self.get(kind, key)? {
            Some(_) => Ok(()),
            None => self.put_one(kind, key, value),
        }
    }

    fn read(&mut self, kind: MapKind, most: usize, page: &mut Page) -> io::Result<()> {
        let entries = self.shape.entries(kind);
        match self.map(kind)? {
            Map::Array(values) => {
                let first = index(&page.cursor).unwrap_or(0);
                let end = first.saturating_add(u32::try_from(most).unwrap_or(u32::MAX)).min(entries);
                for at in first..end {
                    page.keys.extend(at.to_ne_bytes());
                    match values.get(&at) {
                        Some(value) => page.values.extend(value),
                        None => page.values.resize(page.values.len() + kind.value_bytes(), 0),
                    }
                }
                page.cursor = end.to_ne_bytes().to_vec();
                page.is_last = end == entries;
            }
            Map::Tree(entries, _) => {
                let after = std::mem::take(&mut page.cursor);
                let mut rest = entries.iter().filter(|(key, _)| after.is_empty() || **key > after);
                for (key, (value, _)) in rest.by_ref().take(most) {
                    page.keys.extend(key);
                    page.values.extend(value);
                    page.cursor.clone_from(key);
                }
                page.is_last = rest.next().is_none();
            }
        }
        if page.is_last {
            page.cursor.clear();
        }
        Ok(())
    }
}
