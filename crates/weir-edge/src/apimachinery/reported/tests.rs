use super::*;

const JSON_POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{"x":"1"},"generation":3},"spec":{"nodeName":"edge-1","containers":[]},"status":{"phase":"Pending"},"later":1}"#;

/// The same pod in protobuf, with a field of the status that the tables do not have.
fn protobuf_pod() -> Bytes {
    let put = |fields: &[(u32, &[u8])]| {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
        out
    };
    let label = put(&[(1, b"x"), (2, b"1")]);
    let metadata = put(&[(1, b"a"), (3, b"n"), (5, b"u"), (6, b"7"), (11, &label)]);
    let spec = put(&[(10, b"edge-1")]);
    let status = put(&[(1, b"Pending"), (999, b"later")]);
    Envelope::wrap("v1", "Pod", &put(&[(1, &metadata), (2, &spec), (3, &status), (77, b"later")]))
}

#[test]
fn reports_are_read_and_put_back_in_both_encodings() {
    for (bytes, encoding) in [(Bytes::from_static(JSON_POD.as_bytes()), Encoding::Json), (protobuf_pod(), Encoding::Protobuf)] {
        let pod = Object::read(bytes, encoding).unwrap();
        assert_eq!(node_name(&pod).unwrap(), "edge-1");
        let mut report = POD.read(&pod).unwrap();
        assert_eq!(
            report,
            json!({ "metadata": { "labels": { "x": "1" }, "annotations": {} }, "status": { "phase": "Pending" } }),
            "{encoding}"
        );
        report["status"]["phase"] = "Running".into();
        report["metadata"]["labels"] = json!({});
        report["metadata"]["annotations"] = json!({ "y": "2" });
        let changed = Object::read(POD.write(&pod, &report, "07").unwrap(), encoding).unwrap();
        assert_eq!(POD.read(&changed).unwrap(), report, "{encoding}");
        assert_eq!((changed.meta.resource_version.as_str(), changed.meta.uid.as_str(), changed.kind.as_str()), ("07", "u", "Pod"));
        assert_eq!(node_name(&changed).unwrap(), "edge-1");
        // What is not known is still there.
        let left = changed.bytes().windows(5).filter(|w| *w == b"later").count();
        assert_eq!(left, if encoding == Encoding::Json { 1 } else { 2 });
    }
}

#[test]
fn a_pod_without_status_gets_one() {
    let bare = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#;
    let message = Envelope::wrap("v1", "Pod", b"");
    for (bytes, encoding) in [(Bytes::from_static(bare), Encoding::Json), (message, Encoding::Protobuf)] {
        let pod = Object::read(bytes, encoding).unwrap();
        let report = POD.read(&pod).unwrap();
        assert_eq!(report["status"], json!({}));
        let written = POD.write(&pod, &json!({ "status": { "phase": "Failed" } }), "01").unwrap();
        assert_eq!(POD.read(&Object::read(written, encoding).unwrap()).unwrap()["status"]["phase"], "Failed");
        assert_eq!(node_name(&pod).unwrap(), "");
    }
}

#[test]
fn local_versions_are_never_those_of_the_api_server() {
    let table = [("7", 1, "07"), ("7", 2, "007"), ("07", 3, "0007"), ("7", 64, "07"), ("", 1, "00"), ("0", 1, "00")];
    for (version, changes, wanted) in table {
        let made = local_version(version, changes);
        assert_eq!(made, wanted);
        assert_eq!(made.parse::<u64>().unwrap(), version.parse().unwrap_or(0));
    }
}
