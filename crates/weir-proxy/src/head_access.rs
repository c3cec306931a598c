//! What policy reads and changes of a head, whatever protocol it came by.
use std::borrow::Cow;
use weir_net::http::{Headers, Known, RequestHead};

/// The header fields of a request, of a response, or of trailers. Names are asked for in lower case; the host is `host`.
pub trait Fields {
    /// The first value under this name.
    fn first(&self, name: &str) -> Option<&[u8]>;
    /// The first value under a well-known name.
    fn known(&self, id: Known) -> Option<&[u8]> {
        self.first(id.name())
    }
    /// Every value under this name, in the order of arrival.
    fn each(&self, name: &str, with: &mut dyn FnMut(&[u8]));
}

/// Fields that can be changed. [`Headers`] ensures that no value is written with control characters.
pub trait FieldsMut: Fields {
    fn remove(&mut self, name: &str);
    /// Leaves one field of this name.
    fn set(&mut self, name: &str, value: &[u8]);
    /// Adds a field beside those that are there.
    fn add(&mut self, name: &str, value: &[u8]);
}

/// A request's head.
pub trait RequestView: Fields {
    fn method(&self) -> &[u8];
    /// `http` or `https`.
    fn scheme(&self) -> &[u8];
    /// As the client wrote it, with a port where it wrote one.
    fn authority(&self) -> &[u8];
    /// After normalisation, without the query.
    fn path(&self) -> &[u8];
    /// Without the question mark.
    fn query(&self) -> Option<&[u8]>;
}

impl Fields for Headers {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.get_named(name.as_bytes())
    }
    fn known(&self, id: Known) -> Option<&[u8]> {
        self.get(id)
    }
    fn each(&self, name: &str, with: &mut dyn FnMut(&[u8])) {
        self.all_named(name.as_bytes()).for_each(with);
    }
}

impl FieldsMut for Headers {
    fn remove(&mut self, name: &str) {
        self.remove_named(name.as_bytes());
    }
    fn set(&mut self, name: &str, value: &[u8]) {
        self.set_named(name.as_bytes(), value);
    }
    fn add(&mut self, name: &str, value: &[u8]) {
        self.add_named(name.as_bytes(), value);
    }
}

impl Fields for RequestHead {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.headers.first(name)
    }
    fn known(&self, id: Known) -> Option<&[u8]> {
        self.headers.get(id)
    }
    fn each(&self, name: &str, with: &mut dyn FnMut(&[u8])) {
        self.headers.each(name, with);
    }
}

impl RequestView for RequestHead {
    fn method(&self) -> &[u8] {
        self.method_text()
    }
    fn scheme(&self) -> &[u8] {
        self.scheme().as_bytes()
    }
    fn authority(&self) -> &[u8] {
        self.authority()
    }
    fn path(&self) -> &[u8] {
        self.path()
    }
    fn query(&self) -> Option<&[u8]> {
        self.query()
    }
}

/// An authority without its port; brackets of an IPv6 address stay.
pub fn host_without_port(authority: &[u8]) -> &[u8] {
    if authority.first() == Some(&b'[') {
        return &authority[..memchr::memchr(b']', authority).map_or(authority.len(), |i| i + 1)];
    }
    match memchr::memrchr(b':', authority) {
        Some(i) if authority[i + 1..].iter().all(u8::is_ascii_digit) => &authority[..i],
        _ => authority,
    }
}

/// The authority in the form in which hosts are compared: lower case, no dot at the end of the name. The port is kept.
pub fn canonical_authority(authority: &[u8]) -> Cow<'_, [u8]> {
    let host = host_without_port(authority);
    let name = host.strip_suffix(b".").unwrap_or(host);
    if name.len() == host.len() && !host.iter().any(u8::is_ascii_uppercase) {
        return Cow::Borrowed(authority);
    }
    Cow::Owned([&name.to_ascii_lowercase(), &authority[host.len()..]].concat())
}

/// The value of a query parameter as it stands in the query (not decoded); empty for a parameter without `=`.
pub fn query_parameter<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|c| *c == b'&').find_map(|pair| match memchr::memchr(b'=', pair) {
        Some(i) => (&pair[..i] == name).then(|| &pair[i + 1..]),
        None => (pair == name).then_some(&b""[..]),
    })
}

/// The value of a cookie among a request's `cookie` fields.
pub fn cookie<R>(fields: &dyn Fields, name: &str, with: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let (mut with, mut out) = (Some(with), None);
    fields.each("cookie", &mut |line| {
        for pair in line.split(|c| *c == b';') {
            let pair = pair.trim_ascii();
            let found = memchr::memchr(b'=', pair).filter(|i| &pair[..*i] == name.as_bytes());
            if let Some((i, with)) = found.and_then(|i| Some((i, with.take()?))) {
                out = Some(with(pair[i + 1..].trim_ascii()));
            }
        }
    });
    out
}

#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// Fields as a plain list.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct List(pub Vec<(String, Vec<u8>)>);

    impl List {
        pub fn of(pairs: &[(&str, &str)]) -> List {
            List(pairs.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect())
        }
        pub fn text(&self, name: &str) -> Vec<&str> {
            self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| std::str::from_utf8(v).expect("text")).collect()
        }
    }
    impl Fields for List {
        fn first(&self, name: &str) -> Option<&[u8]> {
            self.0.iter().find(|(n, _)| n == name).map(|(_, v)| &v[..])
        }
        fn each(&self, name: &str, with: &mut dyn FnMut(&[u8])) {
            self.0.iter().filter(|(n, _)| n == name).for_each(|(_, v)| with(v));
        }
    }
    impl FieldsMut for List {
        fn remove(&mut self, name: &str) {
            self.0.retain(|(n, _)| n != name);
        }
        fn set(&mut self, name: &str, value: &[u8]) {
            self.remove(name);
            self.add(name, value);
        }
        fn add(&mut self, name: &str, value: &[u8]) {
            self.0.push((name.to_string(), value.to_vec()));
        }
    }

    #[derive(Clone, Debug)]
    pub struct Request {
        pub method: &'static str,
        pub scheme: &'static str,
        pub authority: String,
        pub target: String,
        pub fields: List,
    }
    impl Request {
        pub fn get(authority: &str, target: &str) -> Request {
            Request { method: "GET", scheme: "http", authority: authority.into(), target: target.into(), fields: List::default() }
        }
        pub fn with(mut self, name: &str, value: &str) -> Request {
            self.fields.add(name, value.as_bytes());
            self
        }
    }
    impl Fields for Request {
        fn first(&self, name: &str) -> Option<&[u8]> {
            self.fields.first(name)
        }
        fn each(&self, name: &str, with: &mut dyn FnMut(&[u8])) {
            self.fields.each(name, with);
        }
    }
    impl RequestView for Request {
        fn method(&self) -> &[u8] {
            self.method.as_bytes()
        }
        fn scheme(&self) -> &[u8] {
            self.scheme.as_bytes()
        }
        fn authority(&self) -> &[u8] {
            self.authority.as_bytes()
        }
        fn path(&self) -> &[u8] {
            self.target.split('?').next().unwrap_or_default().as_bytes()
        }
        fn query(&self) -> Option<&[u8]> {
            self.target.split_once('?').map(|(_, q)| q.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_leave_hosts() {
        let table = [
            ("shop.test", "shop.test"),
            ("shop.test:80", "shop.test"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("a:b", "a:b"),
            ("", ""),
        ];
        for (authority, host) in table {
            assert_eq!(host_without_port(authority.as_bytes()), host.as_bytes(), "{authority}");
        }
    }

    #[test]
    fn authorities_are_compared_in_one_form() {
        let table = [
            ("shop.test", "shop.test"),
            ("Shop.Test", "shop.test"),
            ("shop.test.", "shop.test"),
            ("SHOP.test.:8080", "shop.test:8080"),
            ("shop.test:8080", "shop.test:8080"),
            ("[FE80::1]:80", "[fe80::1]:80"),
            ("shop.test..", "shop.test."),
            (".", ""),
            ("", ""),
        ];
        for (authority, canonical) in table {
            assert_eq!(&*canonical_authority(authority.as_bytes()), canonical.as_bytes(), "{authority}");
        }
    }

    #[test]
    fn query_parameters_and_cookies_are_found() {
        assert_eq!(query_parameter(b"a=1&b&c=2=3", b"c"), Some(&b"2=3"[..]));
        assert_eq!(query_parameter(b"a=1&b&c=2", b"b"), Some(&b""[..]));
        assert_eq!(query_parameter(b"aa=1", b"a"), None);
        let fields = fake::List::of(&[("cookie", "x=1; id=7"), ("cookie", "id=8")]);
        assert_eq!(cookie(&fields, "id", |v| v.to_vec()), Some(b"7".to_vec()));
        assert_eq!(cookie(&fields, "y", |v| v.to_vec()), None);
    }
}
