//! The ordered header block.
use crate::http::{names::Known, text};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A piece of the buffer.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub(crate) struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub fn new(start: usize, len: usize) -> Span {
        Span { start: start as u32, len: len as u32 }
    }
}

/// A header line as the tokenizer finds it: where it starts in the buffer, and the lengths of its name, up to its value, of
/// its value and of all of it.
pub(crate) struct Line {
    pub start: usize,
    pub id: Known,
    pub name_len: usize,
    pub value_at: usize,
    pub value_len: usize,
    pub len: usize,
}

/// Where one header line is in the buffer.
#[derive(Clone, Copy)]
struct Field {
    start: u32,
    line_len: u32,
    value_len: u32,
    value_at: u16,
    name_len: u16,
    id: Known,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Exactly `name: value\r\n`: can be copied as it stands.
    Clean,
    /// Other white space around the value: the line is rewritten.
    Untidy,
    Removed,
}

/// The ordered header block and the buffer of the whole head. Names keep the case they came in and are compared without it.
#[derive(Default)]
pub struct Headers {
    pub(crate) buf: Vec<u8>,
    list: Vec<Field>,
    /// Which well-known names occur: most questions are answered by one bit.
    seen: u64,
    /// While the head is still coming in: start of the first line that is not complete; 0 before the first.
    pub(crate) resume: u32,
}

impl Headers {
    pub fn clear(&mut self) {
        self.buf.clear();
        self.list.clear();
        (self.seen, self.resume) = (0, 0);
    }
    /// Removes all headers; what else is in the buffer stays.
    pub fn remove_all(&mut self) {
        self.list.clear();
        self.seen = 0;
    }
    /// Gives memory back that only an unusually large head needed.
    pub fn shrink(&mut self, keep: usize) {
        if self.buf.capacity() > keep {
            self.buf = Vec::new();
        }
    }
    pub(crate) fn copy_from(&mut self, other: &Headers) {
        self.buf.clone_from(&other.buf);
        self.list.clone_from(&other.list);
        (self.seen, self.resume) = (other.seen, 0);
    }
    pub(crate) fn at(&self, s: Span) -> &[u8] {
        &self.buf[s.start as usize..][..s.len as usize]
    }
    /// The bytes from `a` to the end of `b`, where `b` lies one byte behind `a`.
    pub(crate) fn between(&self, a: Span, b: Span) -> Option<&[u8]> {
        (a.start + a.len + 1 == b.start).then(|| &self.buf[a.start as usize..(b.start + b.len) as usize])
    }
    /// Puts text that is no header into the buffer.
    pub(crate) fn store(&mut self, text: &[u8]) -> Span {
        let start = self.buf.len();
        self.buf.extend_from_slice(text);
        Span::new(start, text.len())
    }
    /// Records a line found by the tokenizer.
    pub(crate) fn found(&mut self, line: &Line) {
        let tidy = line.value_at == line.name_len + 2 && line.len == line.value_at + line.value_len + 2;
        self.seen |= line.id.bit();
        self.list.push(Field {
            start: line.start as u32,
            line_len: line.len as u32,
            value_len: line.value_len as u32,
            value_at: line.value_at as u16,
            name_len: line.name_len as u16,
            id: line.id,
            state: if tidy { State::Clean } else { State::Untidy },
        });
    }
    pub(crate) fn found_so_far(&self) -> usize {
        self.list.len()
    }
    fn name_of(&self, f: &Field) -> &[u8] {
        &self.buf[f.start as usize..][..f.name_len as usize]
    }
    fn value_of(&self, f: &Field) -> &[u8] {
        &self.buf[f.start as usize + f.value_at as usize..][..f.value_len as usize]
    }
    fn live(&self) -> impl Iterator<Item = &Field> {
        self.list.iter().filter(|f| f.state != State::Removed)
    }
    fn is_named(&self, f: &Field, id: Known, name: &[u8]) -> bool {
        f.id == id && f.state != State::Removed && (id != Known::Other || self.name_of(f).eq_ignore_ascii_case(name))
    }

    /// Whether any of the well-known names in `set` occurs.
    pub fn has_any(&self, set: u64) -> bool {
        self.seen & set != 0
    }
    pub fn has(&self, id: Known) -> bool {
        self.has_any(id.bit())
    }
    pub fn len(&self) -> usize {
        self.live().count()
    }
    pub fn is_empty(&self) -> bool {
        self.live().next().is_none()
    }
    pub fn all(&self, id: Known) -> impl Iterator<Item = &[u8]> {
        let skip = if self.has(id) { 0 } else { self.list.len() };
        self.list[skip..].iter().filter(move |f| f.id == id && f.state != State::Removed).map(|f| self.value_of(f))
    }
    /// The first value.
    pub fn get(&self, id: Known) -> Option<&[u8]> {
        self.all(id).next()
    }
    /// All values of a header of any name.
    pub fn all_named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let id = if name.is_empty() { Known::Other } else { Known::of(name) };
        let skip = if self.has(id) { 0 } else { self.list.len() };
        self.list[skip..].iter().filter(move |f| self.is_named(f, id, name)).map(|f| self.value_of(f))
    }
    pub fn get_named(&self, name: &[u8]) -> Option<&[u8]> {
        let id = if name.is_empty() { Known::Other } else { Known::of(name) };
        if !self.has(id) {
            return None;
        }
        self.list.iter().find(|f| self.is_named(f, id, name)).map(|f| self.value_of(f))
    }
    /// Every header in order, names in the case they have.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.live().map(|f| (self.name_of(f), self.value_of(f)))
    }
    /// As [`Headers::iter`], with the ids of the names.
    pub fn iter_known(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.live().map(|f| (f.id, self.name_of(f), self.value_of(f)))
    }
    /// Bytes of names and values, for limits and statistics.
    pub fn size(&self) -> usize {
        self.live().map(|f| f.name_len as usize + f.value_len as usize).sum()
    }

    /// Bytes in use, including those of replaced and removed headers.
    pub fn stored(&self) -> usize {
        self.buf.len()
    }

    /// Completes the line at `start`, which so far holds the name, the colon and a blank; `parts` together are the value.
    ///
    /// Every line that was not received from a peer is written here, so this is the only check of its value: a byte that would
    /// end the line, or is not text, becomes a blank. `None`: the name is too long, or the value of Host is no authority; nothing
    /// was written.
    fn end_line(&mut self, id: Known, start: usize, parts: &[&[u8]]) -> Option<Field> {
        let value_at = self.buf.len() - start;
        let mut at = self.buf.len();
        for part in parts {
            self.buf.extend_from_slice(part);
        }
        let fits = u16::try_from(value_at).ok().filter(|_| id != Known::Host || text::is_authority(&self.buf[at..]));
        let Some(value_at) = fits else {
            self.buf.truncate(start);
            return None;
        };
        loop {
            at = text::value_end(&self.buf, at);
            match self.buf.get_mut(at) {
                Some(byte) => *byte = b' ',
                None => break,
            }
        }
        self.buf.extend_from_slice(b"\r\n");
        let line_len = self.buf.len() - start;
        self.seen |= id.bit();
        Some(Field {
            start: start as u32,
            line_len: line_len as u32,
            value_len: (line_len - usize::from(value_at) - 2) as u32,
            value_at,
            name_len: value_at - 2,
            id,
            state: State::Clean,
        })
    }
    fn known_line(&mut self, id: Known, parts: &[&[u8]]) -> Option<Field> {
        let start = self.buf.len();
        self.buf.extend_from_slice(id.prefix().as_bytes());
        self.end_line(id, start, parts)
    }
    /// `name` is a token.
    fn named_line(&mut self, name: &[u8], value: &[u8]) -> Option<Field> {
        let start = self.buf.len();
        self.buf.extend_from_slice(name);
        self.buf.extend_from_slice(b": ");
        self.end_line(Known::of(name), start, &[value])
    }
    /// Adds a header. Bytes that no value may hold become blanks. `false`: a Host that is no authority, and nothing was added.
    pub fn add(&mut self, id: Known, parts: &[&[u8]]) -> bool {
        let line = self.known_line(id, parts);
        self.list.extend(line);
        line.is_some()
    }
    /// [`Headers::add`] for any name. `false` also for a name that is no token or too long.
    pub fn add_named(&mut self, name: &[u8], value: &[u8]) -> bool {
        let line = if text::is_token(name) { self.named_line(name, value) } else { None };
        self.list.extend(line);
        line.is_some()
    }
    /// Replaces the first header of this name in its place and removes the others; adds it if there is none. `false`: as
    /// [`Headers::add`], and the old value is kept.
    pub fn set(&mut self, id: Known, parts: &[&[u8]]) -> bool {
        let had = self.has(id);
        let line = self.known_line(id, parts);
        line.map(|new| self.put(had, new)).is_some()
    }
    /// [`Headers::set`] for any name. `false` also for a name that is no token or too long.
    pub fn set_named(&mut self, name: &[u8], value: &[u8]) -> bool {
        if !text::is_token(name) {
            return false;
        }
        let had = self.has(Known::of(name));
        let line = self.named_line(name, value);
        line.map(|new| self.put(had, new)).is_some()
    }
    /// `had`: there may be others of this name.
    fn put(&mut self, had: bool, new: Field) {
        let mut placed = false;
        for i in 0..if had { self.list.len() } else { 0 } {
            if self.is_named(&self.list[i], new.id, self.name_of(&new)) {
                match placed {
                    false => self.list[i] = new,
                    true => self.list[i].state = State::Removed,
                }
                placed = true;
            }
        }
        if !placed {
            self.list.push(new);
        }
    }
    /// Removes every header whose id is in `set`.
    pub fn remove_any(&mut self, set: u64) {
        let set = set & !Known::Other.bit();
        if self.has_any(set) {
            for f in self.list.iter_mut().filter(|f| f.id.bit() & set != 0) {
                f.state = State::Removed;
            }
            self.seen &= !set;
        }
    }
    pub fn remove(&mut self, id: Known) {
        self.remove_any(id.bit());
    }
    /// Removes every header of any name.
    pub fn remove_named(&mut self, name: &[u8]) {
        if name.is_empty() {
            return;
        }
        match Known::of(name) {
            Known::Other => {
                for i in 0..self.list.len() {
                    if self.is_named(&self.list[i], Known::Other, name) {
                        self.list[i].state = State::Removed;
                    }
                }
            }
            id => self.remove(id),
        }
    }
    /// Removes every header whose name begins with `prefix`, which is in lower case.
    pub fn remove_prefixed(&mut self, prefix: &[u8]) {
        for i in 0..self.list.len() {
            let name = self.name_of(&self.list[i]);
            // Few names have the same byte where the prefix ends.
            if name.get(prefix.len() - 1) != prefix.last() || !name[..prefix.len()].eq_ignore_ascii_case(prefix) {
                continue;
            }
            match self.list[i].id {
                Known::Other => self.list[i].state = State::Removed,
                id => self.remove(id),
            }
        }
    }
    /// Writes all lines and the blank line, copying each run of neighbouring lines at once.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        self.write_lines(out);
        out.extend_from_slice(b"\r\n");
    }
    /// Writes all lines without the blank line.
    pub fn write_lines(&self, out: &mut Vec<u8>) {
        let (mut from, mut to) = (0, 0);
        for f in self.live() {
            let (start, end) = (f.start as usize, (f.start + f.line_len) as usize);
            if f.state == State::Clean && start == to {
                to = end;
                continue;
            }
            out.extend_from_slice(&self.buf[from..to]);
            (from, to) = (start, end);
            if f.state == State::Untidy {
                for part in [self.name_of(f), b": ", self.value_of(f), b"\r\n"] {
                    out.extend_from_slice(part);
                }
                from = end;
            }
        }
        out.extend_from_slice(&self.buf[from..to]);
    }
    /// The same headers as the `http` crate holds them, for borders to libraries that want them so.
    ///
    /// # Errors
    /// A value that the crate does not take (control bytes that a plugin set).
    pub fn to_map(&self) -> Result<HeaderMap, http::Error> {
        let mut map = HeaderMap::with_capacity(self.list.len());
        for (name, value) in self.iter() {
            map.append(HeaderName::from_bytes(name)?, HeaderValue::from_bytes(value)?);
        }
        Ok(map)
    }
    /// Adds all headers of `map`. `false`: at least one of them could not be added.
    pub fn extend_from_map(&mut self, map: &HeaderMap) -> bool {
        map.iter().fold(true, |fine, (name, value)| self.add_named(name.as_str().as_bytes(), value.as_bytes()) && fine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(h: &Headers) -> String {
        let mut out = Vec::new();
        h.write_lines(&mut out);
        String::from_utf8_lossy(&out).replace("\r\n", "|")
    }

    #[test]
    fn edits_by_any_name() {
        let mut h = Headers::default();
        h.add_named(b"X-One", b"1");
        h.add(Known::Cookie, &[b"a=", b"b"]);
        h.add_named(b"x-one", b"2");
        h.add_named(b"x-two", b"3");
        assert_eq!(h.get_named(b"X-ONE"), Some(&b"1"[..]));
        assert_eq!(h.all_named(b"x-one").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(h.get_named(b"COOKIE"), Some(&b"a=b"[..]));
        h.set_named(b"x-one", b"new");
        assert_eq!(text(&h), "x-one: new|cookie: a=b|x-two: 3|");
        h.remove_named(b"cookie");
        assert!(!h.has(Known::Cookie) && h.get_named(b"cookie").is_none());
        h.remove_named(b"X-TWO");
        h.add_named(b"X-Envoy-Odd", b"");
        h.add(Known::OriginalPath, &[b"/"]);
        h.add_named(b"x-envoyodd", b"");
        h.remove_prefixed(b"x-envoy-");
        assert!(!h.has(Known::OriginalPath));
        h.remove_named(b"x-envoyodd");
        h.set_named(b"x-three", b"");
        assert_eq!(text(&h), "x-one: new|x-three: |");
        assert_eq!(h.get_named(b"x-three"), Some(&b""[..]));
        assert_eq!(h.len(), 2);
    }

    #[test]
    fn no_line_ends_early_and_no_name_is_cut() {
        let mut h = Headers::default();
        assert!(h.add(Known::Cookie, &[b"a\r\nx: 1", b"\0\n"]) && h.set_named(b"X-A", b"\tb\x7f\x01\"c\xc3\xa9"));
        assert!(text(&h).starts_with("cookie: a  x: 1  |X-A: \tb  \"c"), "{}", text(&h));
        for name in [&b""[..], b"a b", b"a\r\nb", b"a:b", b"a\"", b"content\rlength", &[b'a'; 65_536], &[b'a'; 65_534]] {
            assert!(!h.add_named(name, b"v") && !h.set_named(name, b"v"), "{}", String::from_utf8_lossy(name));
        }
        assert!(h.add_named(&[b'a'; 65_533], b"v") && h.get_named(&[b'a'; 65_533]) == Some(b"v"));
        assert!(h.add(Known::Host, &[b"h.test", b":80"]) && h.len() == 4);
        assert!(!h.set(Known::Host, &[b"a b"]) && !h.add_named(b"host", b"a\r\nb") && h.get(Known::Host) == Some(b"h.test:80"));
    }
}
