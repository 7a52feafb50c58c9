//! The maps in the kernel.

use std::io;
use std::os::fd::OwnedFd;

use middlenet_fast_path::{MapKind, Shape};
use middlenet_shm::{Batch, KernelMap, MapSizes, Write};

use super::FastPathError;
use super::store::{MOST, Page, Store};

/// The maps that the nf-manager has passed.
#[derive(Debug)]
pub(super) struct Kernel(Vec<(MapKind, KernelMap)>);

impl Kernel {
    pub(super) fn open(shape: &Shape, maps: Vec<(MapKind, OwnedFd)>) -> Result<Self, FastPathError> {
        if let Some(missing) = shape.maps().find(|kind| !maps.iter().any(|(there, _)| there == kind)) {
            return Err(FastPathError::Missing(missing));
        }
        let open = |(kind, fd): (MapKind, OwnedFd)| {
            let sizes = MapSizes {
                key_bytes: kind.key_bytes(),
                value_bytes: kind.value_bytes(),
                is_per_processor: kind.is_per_processor(),
            };
            KernelMap::new(fd, sizes, MOST).map(|map| (kind, map)).map_err(FastPathError::map(kind))
        };
        maps.into_iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    fn map(&mut self, kind: MapKind) -> io::Result<&mut KernelMap> {
        let map = self.0.iter_mut().find(|(of, _)| *of == kind);
        map.map(|(_, map)| map).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Store for Kernel {
    fn get(&mut self, kind: MapKind, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.map(kind)?.lookup(key)?.map(<[u8]>::to_vec))
    }

    fn put(&mut self, kind: MapKind, keys: &[u8], values: &[u8]) -> (usize, io::Result<()>) {
        let map = match self.map(kind) {
            Ok(map) => map,
            Err(e) => return (0, Err(e)),
        };
        let mut written = 0;
        let chunks = keys.chunks(MOST * kind.key_bytes()).zip(values.chunks(MOST * kind.value_bytes()));
        for (keys, values) in chunks {
            let Batch { done, result } = map.update_batch(keys, values);
            written += done;
            if result.is_err() {
                return (written, result);
            }
        }
        (written, Ok(()))
    }

    fn delete(&mut self, kind: MapKind, keys: &[u8]) -> io::Result<usize> {
        let map = self.map(kind)?;
        let (mut deleted, mut rest) = (0, keys);
        while !rest.is_empty() {
            let Batch { done, result } = map.delete_batch(rest);
            deleted += done;
            rest = &rest[done * kind.key_bytes()..];
            match result {
                Ok(()) => {}
                // The next one is not there.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !rest.is_empty() => rest = &rest[kind.key_bytes()..],
                Err(e) => return Err(e),
            }
        }
        Ok(deleted)
    }

    fn take(&mut self, kind: MapKind, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.map(kind)?.take(key)?.map(<[u8]>::to_vec))
    }

    fn put_back(&mut self, kind: MapKind, key: &[u8], value: &[u8]) -> io::Result<()> {
        match self.map(kind)?.update(key, value, Write::New) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn read(&mut self, kind: MapKind, most: usize, page: &mut Page) -> io::Result<()> {
        let map = self.map(kind)?;
        let read = map.lookup_batch(&mut page.cursor, most)?;
        page.keys.extend(read.keys);
        page.values.extend(read.values);
        page.is_last = read.is_last;
        if page.is_last {
            page.cursor.clear();
        }
        Ok(())
    }
}
