//! Path normalisation (RFC 3986 section 6), done once, before anything matches.

/// What an escaped slash (`%2F`, `%5C`) in a path leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slashes {
    #[default]
    Keep,
    Reject,
    /// Unescape, and tell the client to ask for that.
    Redirect,
    Unescape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Removes dot segments and unescapes what needs no escape.
    pub normalize: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    pub escaped_slashes: Slashes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalized {
    /// It is as it should be; the usual case, which costs one look.
    Same,
    New(Vec<u8>),
    Redirect(Vec<u8>),
    Reject,
}

/// Normalises a path without its query.
pub fn normalize(path: &[u8], options: Options) -> Normalized {
    if memchr::memchr(b'#', path).is_some() {
        return Normalized::Reject;
    }
    if !needs_work(path, options) {
        return Normalized::Same;
    }
    let escaped = options.escaped_slashes;
    let (mut out, mut unescaped) = (Vec::with_capacity(path.len()), false);
    let mut i = 0;
    while i < path.len() {
        let c = path[i];
        if c == b'%' {
            let Some(value) = escape(path, i) else {
                if options.normalize {
                    return Normalized::Reject;
                }
                out.push(c);
                i += 1;
                continue;
            };
            match value {
                // A NUL has no business in a path whatever the settings.
                0 => return Normalized::Reject,
                b'/' | b'\\' if escaped == Slashes::Reject => return Normalized::Reject,
                b'/' | b'\\' if escaped != Slashes::Keep => {
                    out.push(b'/');
                    unescaped = true;
                }
                v if options.normalize && is_unreserved(v) => out.push(v),
                _ => out.extend_from_slice(&path[i..i + 3]),
            }
            i += 3;
            continue;
        }
        out.push(if c == b'\\' && options.normalize { b'/' } else { c });
        i += 1;
    }
    if options.normalize {
        match remove_dots(&out) {
            Some(done) => out = done,
            None => return Normalized::Reject,
        }
    }
    if options.merge_slashes {
        out.dedup_by(|b, a| *a == b'/' && *b == b'/');
    }
    match out == path {
        true => Normalized::Same,
        false if unescaped && escaped == Slashes::Redirect => Normalized::Redirect(out),
        false => Normalized::New(out),
    }
}

/// Whether anything in the path might be normalised away.
fn needs_work(path: &[u8], options: Options) -> bool {
    let mut last = 0;
    path.iter().any(|&c| {
        let hit = match c {
            b'%' => true,
            b'\\' => options.normalize,
            b'.' => options.normalize && last == b'/',
            b'/' => options.merge_slashes && last == b'/',
            _ => false,
        };
        last = c;
        hit
    })
}

fn is_unreserved(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~')
}

fn escape(path: &[u8], at: usize) -> Option<u8> {
    let digit = |i: usize| path.get(at + i).and_then(|c| (*c as char).to_digit(16));
    Some((digit(1)? << 4 | digit(2)?) as u8)
}

/// RFC 3986 section 5.2.4. `None` where `..` would leave the root.
fn remove_dots(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.split(|c| *c == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." if last => out.push(b'/'),
            b"." => {}
            b".." => {
                let cut = out.iter().rposition(|c| *c == b'/')?;
                out.truncate(cut);
                if last {
                    out.push(b'/');
                }
            }
            text => {
                out.push(b'/');
                out.extend_from_slice(text);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Options = Options { normalize: true, merge_slashes: true, escaped_slashes: Slashes::Unescape };
    const DOTS: Options = Options { normalize: true, merge_slashes: false, escaped_slashes: Slashes::Keep };

    #[test]
    fn paths() {
        let new = |s: &str| Normalized::New(s.into());
        for (options, path, want) in [
            (DOTS, "/", Normalized::Same),
            (DOTS, "/a/b.c/..d", Normalized::Same),
            (DOTS, "/a/../admin", new("/admin")),
            (DOTS, "/a/%2e%2E/admin", new("/admin")),
            (DOTS, "/a/./b/.", new("/a/b/")),
            (DOTS, "/a/b/..", new("/a/")),
            (DOTS, "/..", Normalized::Reject),
            (DOTS, "/a/../../b", Normalized::Reject),
            (DOTS, "/a\\..\\b", new("/b")),
            (DOTS, "/%41%7e%2f", new("/A~%2f")),
            (DOTS, "/a%zz", Normalized::Reject),
            (DOTS, "/a%2", Normalized::Reject),
            (DOTS, "/a%00", Normalized::Reject),
            (DOTS, "/a#b", Normalized::Reject),
            (DOTS, "/a//b", Normalized::Same),
            (ALL, "//a///b/", new("/a/b/")),
            (ALL, "/a%2f..%2Fb", new("/b")),
            (ALL, "/a%5cb", new("/a/b")),
            (Options { escaped_slashes: Slashes::Reject, ..DOTS }, "/a%2Fb", Normalized::Reject),
            (Options { escaped_slashes: Slashes::Redirect, ..DOTS }, "/a%2Fb", Normalized::Redirect("/a/b".into())),
            (Options::default(), "/a/../%41", Normalized::Same),
        ] {
            assert_eq!(normalize(path.as_bytes(), options), want, "{path}");
        }
    }
}
