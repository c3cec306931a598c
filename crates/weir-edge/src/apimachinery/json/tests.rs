use super::*;

/// The plain way to find the end of a value.
fn reference(text: &[u8]) -> Option<usize> {
    let (mut depth, mut string, mut escaped) = (0, false, false);
    for (i, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => string = !string,
            b'{' | b'[' if !string => depth += 1,
            b'}' | b']' if !string => {
                depth -= 1;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn values_end_where_a_plain_reader_finds_their_end() {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let alphabet = [r#"{"#, "}", "[", "]", r#"""#, r"\", r#"\""#, "a", ":", "é", "0123456789", "\u{5b}x", "spec", "\n"];
    for round in 0..4000 {
        let mut text = b"{".to_vec();
        for _ in 0..random(200) {
            text.extend_from_slice(alphabet[random(alphabet.len() as u64) as usize].as_bytes());
        }
        text.extend_from_slice(br#""}"}]}}}]]]}"#);
        let wanted = reference(&text);
        assert_eq!(Nesting::default().scan(&text), Ok(wanted), "round {round}");
        // In two pieces.
        let cut = random(text.len() as u64) as usize;
        let mut nesting = Nesting::default();
        let end = match nesting.scan(&text[..cut]).unwrap() {
            Some(end) => Some(end),
            None => nesting.scan(&text[cut..]).unwrap().map(|end| cut + end),
        };
        assert_eq!(end, wanted, "round {round}, cut at {cut}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let deep = |depth: u32| [b"[".repeat(depth as usize), b"]".repeat(depth as usize)].concat();
    assert_eq!(Nesting::default().scan(&deep(MAX_DEPTH)), Ok(Some(2 * MAX_DEPTH as usize)));
    assert_eq!(Nesting::default().scan(&deep(MAX_DEPTH + 1)), Err(TooDeep(MAX_DEPTH as usize)));
    let mut nesting = Nesting::default();
    assert!(deep(MAX_DEPTH + 1).chunks(7).any(|piece| nesting.scan(piece).is_err()));
}

#[test]
fn values_are_skipped_or_refused() {
    // Text, and what is skipped of it.
    let table = [
        ("1", Ok("1")),
        ("  -1.5e+10 ", Ok("-1.5e+10")),
        ("true,", Ok("true")),
        ("null", Ok("null")),
        (r#""a\"}b" "#, Ok(r#""a\"}b""#)),
        (r#"{"a":[1,{"b":"]"}]},"#, Ok(r#"{"a":[1,{"b":"]"}]}"#)),
        ("", Err(JsonError::Truncated { at: 0 })),
        (r#""ab"#, Err(JsonError::Truncated { at: 3 })),
        (r#""ab\"#, Err(JsonError::Truncated { at: 4 })),
        (r#"{"a":1"#, Err(JsonError::Truncated { at: 6 })),
        ("tru", Err(JsonError::Truncated { at: 3 })),
        ("- ", Err(JsonError::Expected { at: 0, expected: "a value" })),
        ("maybe ", Err(JsonError::Expected { at: 0, expected: "a value" })),
        ("}", Err(JsonError::Expected { at: 0, expected: "a value" })),
    ];
    for (text, wanted) in table {
        let got = Cursor::new(text.as_bytes()).unwrap().skip().map(|range| &text[range]);
        assert_eq!(got, wanted, "{text}");
    }
    assert_eq!(Cursor::new(b"\"a\xff\"").err(), Some(JsonError::Utf8 { at: 2 }));
}

#[test]
fn strings_are_decoded() {
    let table = [
        (r#""""#, Ok("")),
        (r#""aé""#, Ok("aé")),
        (r#""\u0061\n\"\\\ud83d\ude00""#, Ok("a\n\"\\😀")),
        (r#" "a" "#, Ok("a")),
        (r#""\x""#, Err(JsonError::Escape { at: 0 })),
        (r#""\ud83d""#, Err(JsonError::Escape { at: 0 })),
        ("1", Err(JsonError::Expected { at: 0, expected: "a string" })),
    ];
    for (text, wanted) in table {
        let got = Cursor::new(text.as_bytes()).unwrap().string();
        assert_eq!(got.as_deref(), wanted.as_ref().map(|t| *t), "{text}");
    }
}
