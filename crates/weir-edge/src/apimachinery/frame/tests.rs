use super::*;

fn protobuf(frames: &[&[u8]]) -> Vec<u8> {
    frames.iter().flat_map(|f| [&(f.len() as u32).to_be_bytes(), *f].concat()).collect()
}

/// All frames of a body that arrives in pieces of the given sizes, over and over.
fn split(encoding: Encoding, body: &[u8], sizes: &[usize]) -> Result<Vec<Bytes>, FrameError> {
    let mut splitter = Splitter::new(encoding, 1000).unwrap();
    let (mut frames, mut rest, mut sizes) = (Vec::new(), Bytes::copy_from_slice(body), sizes.iter().cycle());
    while !rest.is_empty() {
        splitter.push(rest.split_to(rest.len().min(*sizes.next().unwrap())));
        while let Some(frame) = splitter.next()? {
            frames.push(frame);
        }
    }
    splitter.finish().map(|()| frames)
}

#[test]
fn frames_do_not_depend_on_how_a_body_is_cut() {
    let long = format!("{{\"a\":\"{}\"}}", "x\\\"{".repeat(60));
    let objects = [r#"{"type":"ADDED","object":{"a":[{"b":"}\\"}]}}"#, "{}", r#"{"é":"\"{[\\"}"#, &long];
    for separator in ["\n", "", "\r\n \t\n"] {
        let body = objects.iter().map(|o| format!("{o}{separator}")).collect::<String>();
        for cut in 1..body.len() {
            assert_eq!(split(Encoding::Json, body.as_bytes(), &[cut, body.len()]).unwrap(), objects, "cut at {cut}");
        }
        for sizes in [[1, 1], [2, 3], [7, 1]] {
            assert_eq!(split(Encoding::Json, body.as_bytes(), &sizes).unwrap(), objects);
        }
    }
    let frames: [&[u8]; 3] = [b"a", &[0; 300], b"{}"];
    let body = protobuf(&frames);
    for cut in 1..body.len() {
        assert_eq!(split(Encoding::Protobuf, &body, &[cut, body.len()]).unwrap(), frames, "cut at {cut}");
    }
    assert_eq!(split(Encoding::Protobuf, &body, &[1]).unwrap(), frames);
}

#[test]
fn frames_in_one_piece_are_not_copied() {
    for (encoding, body) in [(Encoding::Json, b"{\"a\":1}\n{}\n".to_vec()), (Encoding::Protobuf, protobuf(&[b"abc", b"d"]))] {
        let body = Bytes::from(body);
        let mut splitter = Splitter::new(encoding, 100).unwrap();
        splitter.push(body.clone());
        while let Some(frame) = splitter.next().unwrap() {
            assert!(body.as_ptr_range().contains(&frame.as_ptr()));
        }
        assert_eq!((splitter.complete(), splitter.pending()), (body.len() as u64, 0));
    }
}

#[test]
fn complete_says_what_a_client_may_see() {
    type Pieces = &'static [&'static [u8]];
    // Pieces; complete bytes after each.
    let table: [(Encoding, Pieces, &[u64]); 3] = [
        (Encoding::Json, &[b"{}\n{", b"\"a\":", b"1}", b"\n", b" ", b"{}"], &[3, 3, 10, 11, 12, 14]),
        (Encoding::Json, &[b"  {}", b"{}{}\n \n"], &[4, 11]),
        (Encoding::Protobuf, &[b"\0\0", b"\0", b"\x02a", b"b\0\0\0\x01c\0", b"\0\0\x01d"], &[0, 0, 0, 11, 16]),
    ];
    for (encoding, pieces, wanted) in table {
        let mut splitter = Splitter::new(encoding, 100).unwrap();
        let mut pushed = 0;
        for (piece, wanted) in pieces.iter().zip(wanted) {
            pushed += piece.len() as u64;
            splitter.push(Bytes::copy_from_slice(piece));
            while splitter.next().unwrap().is_some() {}
            assert_eq!((splitter.complete(), splitter.pending()), (*wanted, pushed - wanted), "{pieces:?}");
            let wanted = if splitter.pending() == 0 { Ok(()) } else { Err(FrameError::Truncated { at: pushed, pending: pushed - wanted }) };
            assert_eq!(splitter.finish(), wanted);
        }
    }
}

#[test]
fn wrong_bodies_are_errors_with_their_place() {
    let long = |length: usize| format!("{{}}\n{{\"a\":\"{}\"}}", "x".repeat(length - 8)).into_bytes();
    let mut deep = b"{}".to_vec();
    deep.extend(b"{\"a\":".repeat(MAX_DEPTH as usize + 1));
    let table: Vec<(Encoding, Vec<u8>, FrameError)> = vec![
        (Encoding::Json, b"{}\n[]".to_vec(), FrameError::NotAnObject { at: 3 }),
        (Encoding::Json, b"x".to_vec(), FrameError::NotAnObject { at: 0 }),
        (Encoding::Json, b"{}}".to_vec(), FrameError::NotAnObject { at: 2 }),
        (Encoding::Json, b"{\"a\":\"}".to_vec(), FrameError::Truncated { at: 7, pending: 7 }),
        (Encoding::Json, long(1001), FrameError::TooLong { at: 3, max: 1000 }),
        (Encoding::Protobuf, b"\0\0\x03\xe9".to_vec(), FrameError::TooLong { at: 0, max: 1000 }),
        (Encoding::Protobuf, b"\0\0\0\x01a\0\0\0\0".to_vec(), FrameError::Empty { at: 5 }),
        (Encoding::Protobuf, b"\0\0\0\x02a".to_vec(), FrameError::Truncated { at: 5, pending: 5 }),
        (Encoding::Protobuf, b"\0\0".to_vec(), FrameError::Truncated { at: 2, pending: 2 }),
    ];
    for (encoding, body, wanted) in table {
        assert_eq!(split(encoding, &body, &[body.len()]), Err(wanted.clone()), "{body:?}");
        assert_eq!(split(encoding, &body, &[1]), Err(wanted), "{body:?}");
    }
    assert!(split(Encoding::Json, &long(1000), &[1]).is_ok());
    let mut splitter = Splitter::new(Encoding::Json, 1 << 20).unwrap();
    splitter.push(deep.clone().into());
    assert_eq!(splitter.next(), Ok(Some(Bytes::from_static(b"{}"))));
    let error = FrameError::TooDeep { at: 2 + 5 * u64::from(MAX_DEPTH) };
    assert_eq!(splitter.next(), Err(error.clone()));
    splitter.push(Bytes::from_static(b"{}"));
    assert_eq!((splitter.next(), splitter.finish()), (Err(error.clone()), Err(error)));
    for encoding in [Encoding::Cbor, Encoding::Yaml] {
        assert_eq!(Splitter::new(encoding, 1).err(), Some(FrameError::Encoding(encoding)));
    }
}
