//! Records that the API server has refused for good, kept for the operator.
use super::{HEAD, Stats, numbered, records};
use crate::{
    cache::head::seconds,
    store::{Store, WriteError},
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

const SET: &str = "\noutbox\nrefused";
/// Most of them; the oldest go first.
const MOST: usize = 100;
/// Bytes of a body that are kept.
const BODY: usize = 16 << 10;

/// A write that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Seconds since 1970.
    pub at: u64,
    pub method: String,
    pub path: String,
    /// The status code of the API server; 0 where the record could not be read any more.
    pub code: u16,
    pub message: String,
    /// What was sent: as it is where it is JSON, else in base64.
    pub body: Value,
}

impl Letter {
    pub fn new(method: &str, path: &str, code: u16, message: String, body: &[u8]) -> Letter {
        Letter { at: seconds(SystemTime::now()), method: method.into(), path: path.into(), code, message, body: Letter::body(body) }
    }

    /// A body as it is shown.
    pub fn body(body: &[u8]) -> Value {
        match serde_json::from_slice(body) {
            Ok(value) if body.len() <= BODY => value,
            _ => data_encoding::BASE64.encode(&body[..body.len().min(BODY)]).into(),
        }
    }

    pub fn to_json(&self) -> Value {
        json!({ "at": self.at, "method": self.method, "path": self.path, "code": self.code, "message": self.message, "body": self.body })
    }

    fn read(bytes: &[u8]) -> Option<Letter> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let text = |field: &str| value[field].as_str().map(str::to_string);
        let code = u16::try_from(value["code"].as_u64()?).ok()?;
        let body = value["body"].clone();
        Some(Letter { at: value["at"].as_u64()?, method: text("method")?, path: text("path")?, code, message: text("message")?, body })
    }
}

pub struct Refused {
    store: Arc<Store>,
    letters: Mutex<VecDeque<(u64, Letter)>>,
}

impl Refused {
    pub(super) fn open(store: &Arc<Store>, stats: &Stats) -> Refused {
        let read = |(name, bytes): (crate::store::ObjectName, bytes::Bytes)| Some((name.name.parse().ok()?, Letter::read(&bytes)?));
        let letters = records(store, SET, stats).into_iter().filter_map(read).collect();
        Refused { store: store.clone(), letters: Mutex::new(letters) }
    }

    pub fn add(&self, letter: Letter) -> Result<(), WriteError> {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let number = letters.back().map_or(0, |(number, _)| number + 1);
        let put = self.store.put(SET, &numbered(number), letter.to_json().to_string().as_bytes(), HEAD);
        letters.push_back((number, letter));
        while letters.len() > MOST
            && let Some((oldest, _)) = letters.pop_front()
        {
            self.store.remove(SET, &numbered(oldest), HEAD)?;
        }
        put
    }

    /// From the oldest to the newest, with their numbers.
    pub fn letters(&self) -> Vec<(u64, Letter)> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Forgets one; whether there was one.
    pub fn remove(&self, number: u64) -> Result<bool, WriteError> {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = letters.iter().position(|(n, _)| *n == number) else { return Ok(false) };
        self.store.remove(SET, &numbered(number), HEAD)?;
        letters.remove(at);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn the_last_letters_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Refused::open(&Arc::new(Store::open(folder.path(), Options::default()).unwrap()), &Stats::default());
        let refused = open();
        for i in 0..MOST + 5 {
            let body = if i % 2 == 0 { &br#"{"a":1}"#[..] } else { b"k8s\0" };
            refused.add(Letter::new("PATCH", &format!("/{i}"), 422, "no".into(), body)).unwrap();
        }
        let letters = refused.letters();
        assert_eq!((letters.len(), letters[0].1.path.as_str()), (MOST, "/5"));
        assert_eq!((&letters[0].1.body, &letters[1].1.body), (&json!("azhzAA=="), &json!({ "a": 1 })));
        assert!(refused.remove(letters[0].0).unwrap() && !refused.remove(letters[0].0).unwrap());
        drop(refused);
        assert_eq!(open().letters(), letters[1..]);
    }
}
