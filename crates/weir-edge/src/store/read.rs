//! Reading what the store holds: the index says where, the record's checksums say whether it is what was written.
use super::{
    Listing, ObjectName, ReadError, codec,
    index::{Loc, SetState},
    log::{Log, value_aad},
    record::{self, Header, Meta},
    segment::Segment,
};
use bytes::Bytes;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

impl Log {
    pub fn get(&self, set: &str, key: &str) -> Result<Option<Bytes>, ReadError> {
        self.check_open()?;
        let (loc, segment) = {
            let index = self.index();
            let Some(state) = index.set(set) else { return Ok(None) };
            whole(set, state)?;
            let Some(loc) = state.objects.get(key) else { return Ok(None) };
            (*loc, index.segments.get(&loc.segment).map(|info| info.file.clone()))
        };
        self.value(set, key, loc, segment.as_deref()).map(Some)
    }

    pub fn list(&self, set: &str) -> Result<Option<Listing>, ReadError> {
        self.check_open()?;
        // One look at the index: a list is never a mix of two states.
        let (head, objects, segments) = {
            let index = self.index();
            let Some(state) = index.set(set) else { return Ok(None) };
            whole(set, state)?;
            if !state.whole {
                return Ok(None);
            }
            let segments: Vec<Arc<Segment>> = index.segments.values().map(|info| info.file.clone()).collect();
            (state.head.clone(), state.objects.clone(), segments)
        };
        let mut items = Vec::with_capacity(objects.len());
        for (key, loc) in objects {
            let segment = segments.binary_search_by_key(&loc.segment, |segment| segment.id).ok().and_then(|at| segments.get(at));
            let value = self.value(set, &key, loc, segment.map(|segment| &**segment))?;
            items.push((name(&key), value));
        }
        Ok(Some(Listing { head, items }))
    }

    fn check_open(&self) -> Result<(), ReadError> {
        if self.closed.load(Ordering::Acquire) { Err(ReadError::Closed) } else { Ok(()) }
    }

    fn value(&self, set: &str, key: &str, loc: Loc, segment: Option<&Segment>) -> Result<Bytes, ReadError> {
        let damaged = || {
            self.stats.damaged_reads.fetch_add(1, Ordering::Relaxed);
            // The next list writes it again, also if it is the same.
            self.index_mut().doubt(set, key);
            ReadError::Damaged { set: set.into(), object: Some(name(key)) }
        };
        let segment = segment.ok_or_else(damaged)?;
        let bytes = match segment.read(loc.offset, loc.len) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged()),
            Err(e) => return Err(ReadError::Io(e)),
        };
        self.unpack(set, key, &bytes, segment).map(Bytes::from).ok_or_else(damaged)
    }

    /// The value in the bytes of a record, if it is the record of this object.
    pub fn unpack(&self, set: &str, key: &str, bytes: &[u8], segment: &Segment) -> Option<Vec<u8>> {
        let (header, stored) = Header::read(bytes, &segment.salt)?;
        let value = bytes.get(record::value_range(&header))?;
        let meta = header.meta(stored, self.cipher()).ok()?;
        let ours = matches!(&meta, Meta::Put { key: k, .. } | Meta::Moved { key: k } | Meta::Item { key: k, .. } if **k == *key);
        if !ours || header.len() != bytes.len() || record::checksum(&[value]) != header.value_crc {
            return None;
        }
        let value = self.cipher().open(value, &value_aad(set, key))?;
        codec::decode(header.codec, &value, header.raw_len as usize, &segment.dictionary)
    }
}

fn whole(name: &str, set: &SetState) -> Result<(), ReadError> {
    if set.readable() { Ok(()) } else { Err(ReadError::Damaged { set: name.into(), object: None }) }
}

pub fn name(key: &str) -> ObjectName {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    ObjectName { namespace: namespace.into(), name: name.into() }
}
