use super::testkit::{MapType, create};
use super::*;

const HASH: MapType = MapType::Hash;
const ARRAY: MapType = MapType::Array;
const PER_CPU_ARRAY: MapType = MapType::PerProcessorArray;
const LRU_HASH: MapType = MapType::LruHash;
const TRIE: MapType = MapType::Trie;

fn open(kind: MapType, key_bytes: u32, value_bytes: u32, entries: u32) -> Option<KernelMap> {
    let sizes = MapSizes {
        key_bytes: key_bytes as usize,
        value_bytes: value_bytes as usize,
        is_per_processor: kind == PER_CPU_ARRAY,
    };
    create(kind, key_bytes, value_bytes, entries).map(|fd| KernelMap::new(fd, sizes, 512).unwrap())
}

fn key(number: u32) -> [u8; 8] {
    u64::from(number).to_ne_bytes()
}

#[test]
fn elements_come_and_go_one_by_one() {
    let Some(mut map) = open(HASH, 8, 16, 2) else { return };
    assert_eq!(map.lookup(&key(1)).unwrap(), None);
    map.update(&key(1), &[7; 16], Write::New).unwrap();
    assert_eq!(map.update(&key(1), &[8; 16], Write::New).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(map.update(&key(2), &[8; 16], Write::Existing).unwrap_err().kind(), io::ErrorKind::NotFound);
    map.update(&key(1), &[9; 16], Write::Existing).unwrap();
    map.update(&key(2), &[8; 16], Write::Any).unwrap();
    assert_eq!(map.update(&key(3), &[8; 16], Write::Any).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    assert_eq!(map.lookup(&key(1)).unwrap(), Some(&[9; 16][..]));
    let first = map.next_key(None).unwrap().unwrap().to_vec();
    let second = map.next_key(Some(&first)).unwrap().unwrap().to_vec();
    assert_ne!(first, second);
    assert_eq!(map.next_key(Some(&second)).unwrap(), None);
    assert!(map.delete(&key(1)).unwrap());
    assert!(!map.delete(&key(1)).unwrap());
    for wrong in [&[0; 7][..], &[0; 9], &[]] {
        assert_eq!(map.lookup(wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(map.update(wrong, &[0; 16], Write::Any).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(map.update(&key(1), &[0; 15], Write::Any).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn an_element_is_taken_out_with_its_value() {
    for kind in [HASH, LRU_HASH] {
        let Some(mut map) = open(kind, 8, 16, 100) else { return };
        map.update(&key(1), &[7; 16], Write::New).unwrap();
        map.update(&key(2), &[8; 16], Write::New).unwrap();
        assert_eq!(map.take(&key(1)).unwrap(), Some(&[7; 16][..]));
        assert_eq!(map.take(&key(1)).unwrap(), None);
        assert_eq!(map.lookup(&key(1)).unwrap(), None);
        assert_eq!(map.lookup(&key(2)).unwrap(), Some(&[8; 16][..]));
        assert_eq!(map.take(&[0; 7]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    if let Some(mut map) = open(ARRAY, 4, 16, 4) {
        assert!(map.take(&0_u32.to_ne_bytes()).is_err());
    }
}

#[test]
fn elements_come_and_go_in_batches() {
    for kind in [HASH, LRU_HASH] {
        let Some(mut map) = open(kind, 8, 16, 100_000) else { return };
        let numbers = 0..20_000_u32;
        let keys: Vec<u8> = numbers.clone().flat_map(key).collect();
        let values: Vec<u8> = numbers.clone().flat_map(|number| [key(number), key(number + 1)].concat()).collect();
        let written = map.update_batch(&keys, &values);
        assert_eq!((written.done, written.result.is_ok()), (20_000, true));
        let (mut cursor, mut seen) = (Vec::new(), Vec::new());
        loop {
            let read = map.lookup_batch(&mut cursor, 512).unwrap();
            for (key, value) in read.keys.chunks_exact(8).zip(read.values.chunks_exact(16)) {
                let number = u64::from_ne_bytes(key.try_into().unwrap()) as u32;
                assert_eq!(*value, [super::tests::key(number), super::tests::key(number + 1)].concat());
                seen.push(number);
            }
            if read.is_last {
                break;
            }
        }
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(numbers));
        // The third is not there.
        let gone: Vec<u8> = [5, 6, 30_000, 7].into_iter().flat_map(key).collect();
        let deleted = map.delete_batch(&gone);
        assert_eq!((deleted.done, deleted.result.unwrap_err().kind()), (2, io::ErrorKind::NotFound));
        assert_eq!(map.lookup(&key(5)).unwrap(), None);
        assert!(map.lookup(&key(7)).unwrap().is_some());
        assert_eq!(map.update_batch(&keys, &values[1..]).result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(map.update_batch(&[], &[]).result.is_ok());
    }
}

#[test]
fn arrays_are_read_in_order_and_tries_by_their_longest_prefix() {
    let Some(mut array) = open(ARRAY, 4, 4, 1000) else { return };
    array.update(&7_u32.to_ne_bytes(), &9_u32.to_ne_bytes(), Write::Any).unwrap();
    assert!(array.delete(&7_u32.to_ne_bytes()).is_err());
    assert_eq!(array.lookup(&1000_u32.to_ne_bytes()).unwrap(), None);
    let (mut cursor, mut numbers) = (Vec::new(), Vec::new());
    loop {
        let read = array.lookup_batch(&mut cursor, 300).unwrap();
        numbers.extend(read.keys.as_chunks().0.iter().map(|key| u32::from_ne_bytes(*key)));
        if read.is_last {
            break;
        }
    }
    assert!(numbers.into_iter().eq(0..1000));

    let Some(mut trie) = open(TRIE, 8, 4, 10) else { return };
    let prefix = |bits: u32, address: [u8; 4]| [bits.to_ne_bytes(), address].concat();
    let keys = [prefix(8, [10, 0, 0, 0]), prefix(16, [10, 1, 0, 0])].concat();
    let values = [1_u32.to_ne_bytes(), 2_u32.to_ne_bytes()].concat();
    assert!(trie.update_batch(&keys, &values).result.is_ok());
    for (address, value) in [([10, 2, 0, 1], Some(1_u32)), ([10, 1, 0, 1], Some(2)), ([11, 0, 0, 1], None)] {
        let found = trie.lookup(&prefix(32, address)).unwrap().map(<[u8]>::to_vec);
        assert_eq!(found, value.map(|value| value.to_ne_bytes().to_vec()));
    }
    let mut cursor = Vec::new();
    let read = trie.lookup_batch(&mut cursor, 300).unwrap();
    assert_eq!((read.keys.len(), read.values.len(), read.is_last), (16, 8, true));
}

#[test]
fn values_of_each_processor_are_all_read() {
    let Some(mut map) = open(PER_CPU_ARRAY, 4, 12, 4) else { return };
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last: usize = possible.trim().rsplit([',', '-']).next().unwrap().parse().unwrap();
    assert_eq!(map.value_bytes(), (last + 1) * 16);
    let value: Vec<u8> = (0..=last as u8).flat_map(|processor| [processor + 1; 16]).collect();
    map.update(&2_u32.to_ne_bytes(), &value, Write::Any).unwrap();
    let read = map.lookup(&2_u32.to_ne_bytes()).unwrap().unwrap();
    for (processor, value) in read.chunks_exact(16).enumerate() {
        assert_eq!(value[..12], [processor as u8 + 1; 12]);
    }
}

#[test]
fn a_map_that_is_larger_than_told_writes_nowhere_else() {
    for (kind, key_bytes, value_bytes) in [(HASH, 8, 4096), (ARRAY, 4, 4096)] {
        let Some(fd) = create(kind, key_bytes, value_bytes, 4) else { return };
        let told = |value_bytes| MapSizes { key_bytes: key_bytes as usize, value_bytes, is_per_processor: false };
        let same = fd.try_clone().unwrap();
        let mut honest = KernelMap::new(same, told(4096), 1).unwrap();
        let mut fooled = KernelMap::new(fd, told(16), 1).unwrap();
        let key = |number: u32| u64::from(number).to_le_bytes()[..key_bytes as usize].to_vec();
        (0..4).for_each(|number| honest.update(&key(number), &[0xaa; 4096], Write::Any).unwrap());
        let key = key(3);
        assert_eq!(fooled.lookup(&key).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(fooled.lookup_batch(&mut Vec::new(), 1).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(honest.lookup(&key).unwrap(), Some(&[0xaa; 4096][..]));
    }
    // Keys that are longer than told.
    let Some(fd) = create(HASH, 64, 4, 4) else { return };
    let same = fd.try_clone().unwrap();
    let mut honest =
        KernelMap::new(same, MapSizes { key_bytes: 64, value_bytes: 4, is_per_processor: false }, 1).unwrap();
    honest.update(&[1; 64], &[0; 4], Write::Any).unwrap();
    let mut fooled = KernelMap::new(fd, MapSizes { key_bytes: 8, value_bytes: 4, is_per_processor: false }, 1).unwrap();
    assert_eq!(fooled.next_key(None).unwrap_err().raw_os_error(), Some(libc::EFAULT));
}
