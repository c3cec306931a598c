//! What is known of a whole set beside its objects.
use crate::apimachinery::list::{ListError, ListHead};
use bytes::Bytes;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first byte of a head; a head of another version is not read.
const VERSION: u8 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The resource version up to which the set is complete.
    pub resource_version: String,
    /// When it was last as the API server has it, in seconds since 1970.
    pub at: u64,
    /// Something that belongs into it was missed: it is old, and will be listed again.
    pub dirty: bool,
    /// What a list has beside its items, as [`ListHead::save`] writes it; empty for a set of single objects.
    pub list: Bytes,
}

impl Head {
    pub fn of_list(list: &ListHead, now: u64) -> Head {
        Head { resource_version: list.resource_version.clone(), at: now, dirty: false, list: list.save() }
    }

    /// Of a set of objects that were asked for one by one.
    pub fn of_objects(now: u64) -> Head {
        Head { at: now, ..Head::default() }
    }

    /// The list, at the resource version of the set.
    pub fn list(&self) -> Result<ListHead, ListError> {
        ListHead::load(&self.list)?.at_version(&self.resource_version)
    }

    /// The resource version as a number (KEP-5504).
    pub fn number(&self) -> Option<u64> {
        self.resource_version.parse().ok()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let version = &self.resource_version.as_bytes()[..self.resource_version.len().min(usize::from(u8::MAX))];
        let length = u8::try_from(version.len()).unwrap_or(u8::MAX);
        [&[VERSION, u8::from(self.dirty)][..], &self.at.to_be_bytes(), &[length], version, &self.list].concat()
    }

    /// `None` for what another version of this program has written and this one cannot read.
    pub fn read(bytes: &Bytes) -> Option<Head> {
        let (&[VERSION, dirty], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first()?;
        let version = rest.get(..usize::from(*length))?;
        let list = bytes.slice(11 + version.len()..);
        let resource_version = std::str::from_utf8(version).ok()?.to_string();
        Some(Head { resource_version, at: u64::from_be_bytes(*at), dirty: dirty != 0, list })
    }

    /// How long ago it was last complete.
    pub fn age(&self, now: SystemTime) -> Duration {
        Duration::from_secs(seconds(now).saturating_sub(self.at))
    }

    /// Whether a resource version is later than that of the set. They are numbers (KEP-5504); what is not, counts as later.
    pub fn is_before(&self, resource_version: &str) -> bool {
        match (self.number(), resource_version.parse::<u64>()) {
            (Some(ours), Ok(theirs)) => theirs > ours,
            _ => self.resource_version != resource_version,
        }
    }
}

pub fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_back() {
        let head = Head { resource_version: "7".into(), at: 5, dirty: true, list: Bytes::from_static(b"{}") };
        let bytes = Bytes::from(head.to_bytes());
        assert_eq!(Head::read(&bytes), Some(head.clone()));
        for end in 0..bytes.len() - 2 {
            assert_eq!(Head::read(&bytes.slice(..end)), None, "{end}");
        }
        assert_eq!(Head::read(&Bytes::from_static(&[2; 40])), None);
        assert!(head.is_before("10") && !head.is_before("7") && !head.is_before("6") && head.is_before("x"));
        assert_eq!(head.age(UNIX_EPOCH + Duration::from_secs(12)), Duration::from_secs(7));
    }
}
