use super::*;

fn owner() -> OwnerReference {
    let text = |text: &str| text.to_string();
    OwnerReference { api_version: text("apps/v1"), kind: text("ReplicaSet"), name: text("web-1"), uid: text("r"), controller: true }
}

#[test]
fn metadata_is_read_in_any_order_of_fields() {
    let meta = Meta {
        namespace: "n".into(),
        name: "web\"é".into(),
        uid: "u".into(),
        resource_version: "12".into(),
        generation: Some(3),
        deletion_timestamp: Some(1_230_771_661),
    };
    let owner_text =
        r#"[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"r","controller":true,"blockOwnerDeletion":true}]"#;
    let fields = [
        r#""name":"web\"\u00e9""#.to_string(),
        r#""namespace":"n","generateName":null"#.to_string(),
        r#""uid":"u","managedFields":[{"fieldsV1":{"f:metadata":{"f:labels":{}},"name":"x"}}]"#.to_string(),
        r#""resourceVersion":"12","finalizers":["a"]"#.to_string(),
        r#""generation":3,"deletionTimestamp":"2009-01-01T01:01:01Z""#.to_string(),
        r#""labels":{"a":"1","\u0062":"2"},"annotations":{"x":"{\"kind\":\"y\"}"}"#.to_string(),
        format!(r#""ownerReferences":{owner_text}"#),
    ];
    for turn in 0..fields.len() {
        let metadata = [&fields[turn..], &fields[..turn]].concat().join(" ,\n");
        for text in [
            format!(r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{{metadata}}},"spec":{{"kind":"no"}},"status":null}}"#),
            format!(" {{ \"status\":[\"metadata\"],\"metadata\" : {{ {metadata} }},\"ki\\u006ed\":\"Pod\" , \"apiVersion\":\"v1\"}}\n"),
        ] {
            let object = Object::read(text.clone().into(), Encoding::Json).unwrap();
            assert_eq!((object.api_version.as_str(), object.kind.as_str(), &object.meta), ("v1", "Pod", &meta), "{text}");
            assert_eq!(object.labels().unwrap(), [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into())).into());
            assert_eq!(object.annotations().unwrap(), [("x", r#"{"kind":"y"}"#)].map(|(k, v)| (k.into(), v.into())).into());
            assert_eq!(object.owner_references().unwrap(), [owner()]);
            // Cut anywhere, it is no object.
            let end = text.trim_end().len();
            for cut in (0..end).filter(|cut| text.is_char_boundary(*cut)) {
                assert!(Object::read(text[..cut].to_string().into(), Encoding::Json).is_err(), "{}", &text[..cut]);
            }
        }
    }
}

#[test]
fn what_is_not_there_is_empty() {
    for text in [r#"{"kind":"Pod"}"#, r#"{"kind":"Pod","metadata":null}"#, r#"{"kind":"Pod","metadata":{"labels":null,"uid":null}}"#] {
        let object = Object::read(text.into(), Encoding::Json).unwrap();
        assert_eq!((object.meta.clone(), object.api_version.as_str()), (Meta::default(), ""), "{text}");
        assert!(object.labels().unwrap().is_empty() && object.owner_references().unwrap().is_empty());
    }
    let object = Object::read(protobuf::Envelope::wrap("v1", "Pod", b""), Encoding::Protobuf).unwrap();
    assert_eq!((object.meta.clone(), object.kind.as_str()), (Meta::default(), "Pod"));
    assert!(object.annotations().unwrap().is_empty() && object.owner_references().unwrap().is_empty());
}

#[test]
fn wrong_objects_are_errors() {
    let json = |at, expected| ObjectError::Json(JsonError::Expected { at, expected });
    let table: [(&[u8], ObjectError); 12] = [
        (b"[]", json(0, "an object")),
        (b"{} {}", json(3, "the end of the text")),
        (br#"{"metadata":[]}"#, json(12, "an object")),
        (br#"{"metadata":{"name":1}}"#, json(20, "a string")),
        (br#"{"metadata":{"generation":"1"}}"#, json(26, "a whole number")),
        (br#"{"metadata":{"generation":1.5}}"#, json(26, "a whole number")),
        (br#"{"metadata":{"deletionTimestamp": "soon"}}"#, ObjectError::Time { at: 34 }),
        (br#"{"metadata":{"name":"a","name":"b"}}"#, JsonError::Duplicate { at: 31 }.into()),
        (br#"{"metadata":{"name":"a"},"metadata":{}}"#, JsonError::Duplicate { at: 36 }.into()),
        (br#"{"kind":"a" "b":1}"#, json(12, "a comma or the end of the object")),
        (br#"{"kind";"a"}"#, json(7, "a colon")),
        (b"{\"spec\":\"\xff\"}", JsonError::Utf8 { at: 9 }.into()),
    ];
    for (text, wanted) in table {
        assert_eq!(Object::read(Bytes::from_static(text), Encoding::Json), Err(wanted), "{}", text.escape_ascii());
    }
    let table: [(&[u8], ObjectError); 6] = [
        (b"", ObjectError::Magic),
        (b"k8s", ObjectError::Magic),
        (b"{\"kind\":\"Pod\"}", ObjectError::Magic),
        (
            b"k8s\0\x12\x02{}\x1a\x04gzip\x22\x10application/json",
            ObjectError::Content { content_type: "application/json".into(), content_encoding: "gzip".into() },
        ),
        // The metadata and a name in it that ends too late.
        (b"k8s\0\x12\x04\x0a\x09\x0a\x01", WireError::Truncated { at: 10 }.into()),
        (b"k8s\0\x12\x04\x0a\x02\x0a\x01\x22\0", WireError::Truncated { at: 10 }.into()),
    ];
    for (bytes, wanted) in table {
        assert_eq!(Object::read(Bytes::from_static(bytes), Encoding::Protobuf), Err(wanted), "{}", bytes.escape_ascii());
    }
    assert_eq!(Object::read(Bytes::from_static(b"a"), Encoding::Cbor), Err(ObjectError::Encoding(Encoding::Cbor)));
}

#[test]
fn the_number_of_labels_is_bounded() {
    let with = |count: usize| {
        let labels = (0..count).map(|i| format!("\"l{i}\":\"\"")).collect::<Vec<_>>().join(",");
        Object::read(format!("{{\"metadata\":{{\"labels\":{{{labels}}}}}}}").into(), Encoding::Json).unwrap().labels()
    };
    assert_eq!(with(MAX_ENTRIES).unwrap().len(), MAX_ENTRIES);
    assert!(matches!(with(MAX_ENTRIES + 1), Err(ObjectError::TooMany { .. })));
}

#[test]
fn a_status_names_no_object() {
    let status =
        Object::read(protobuf::Envelope::wrap("v1", "Status", b"\x0a\x04\x0a\0\x12\0\x12\x07Failure"), Encoding::Protobuf).unwrap();
    assert_eq!((status.kind.as_str(), status.meta), ("Status", Meta::default()));
}
