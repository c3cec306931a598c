use super::*;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLES: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[test]
fn accept_headers_are_lists_of_media_types() {
    // Values of the header; cache keys in order.
    let table: [(&[&str], &[&str]); 20] = [
        (&[], &["json"]),
        (&[""], &["json"]),
        (&["*/*"], &["json"]),
        (&["application/*"], &["json"]),
        (&["application/json"], &["json"]),
        (&["Application/JSON; charset=utf-8"], &["json"]),
        (&["application/json, */*"], &["json"]),
        (&["application/vnd.kubernetes.protobuf,application/json"], &["protobuf", "json"]),
        (&["application/vnd.kubernetes.protobuf", "application/json"], &["protobuf", "json"]),
        (&["*/*,application/vnd.kubernetes.protobuf"], &["protobuf", "json"]),
        (&["application/json;q=0.5, application/vnd.kubernetes.protobuf;q=0.9"], &["protobuf", "json"]),
        (&["application/json;q=0, application/yaml"], &["yaml"]),
        (&["application/json;q=x, application/yaml"], &["json", "yaml"]),
        (&["application/cbor, application/cbor-seq;q=0.1"], &["cbor", "cbor"]),
        (&["text/html, image/png"], &[]),
        (&["application/json;stream=other"], &[]),
        (&["application/json;as=Table;v=v2;g=meta.k8s.io"], &[]),
        (&["application/json;as=Deployment;v=v1;g=apps"], &[]),
        (&[TABLES], &["json;as=Table;v=v1;g=meta.k8s.io", "json;as=Table;v=v1beta1;g=meta.k8s.io", "json"]),
        (&[DISCOVERY], &["json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io", "json"]),
    ];
    for (values, wanted) in table {
        let got: Vec<String> = MediaType::accepted(values.iter().copied()).unwrap().iter().map(MediaType::key).collect();
        assert_eq!(got, wanted, "{values:?}");
    }
    let many = vec!["application/json"; MAX_ACCEPT + 1].join(",");
    assert_eq!(MediaType::accepted([many.as_str()]), Err(MediaError::TooMany));
    assert_eq!(MediaType::accepted([&many[..many.len() - 17]]).unwrap(), [MediaType::JSON]);
}

#[test]
fn a_list_and_a_watch_of_the_same_objects_have_one_key() {
    let read = |parameters: &str| MediaType::read(&format!("{PROTOBUF}{parameters}")).unwrap();
    let list = read(";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let watch = read(";as=PartialObjectMetadata;g=\"meta.k8s.io\";v=v1;stream=watch");
    assert_eq!(list.key(), "protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
    assert_eq!(list.key(), watch.key());
    assert!(watch.stream && !list.stream);
    assert_eq!(read(""), MediaType::PROTOBUF);
    let json = |parameters: &str| MediaType::read(&format!("application/json{parameters}")).unwrap();
    for media in [watch, list, read(""), json(""), json(";as=Table;g=meta.k8s.io;v=v1")] {
        let plain = MediaType { stream: false, ..media };
        assert_eq!(MediaType::of_key(&media.key()), Some(plain));
        for list in [false, true] {
            assert_eq!(MediaType::accepted([media.accept(list).as_str()]), Ok(vec![plain]));
        }
    }
    assert!(list.accept(true).contains(";as=PartialObjectMetadataList;") && list.accept(false).contains(";as=PartialObjectMetadata;"));
    assert_eq!(MediaType::of_key("text"), None);
}

#[test]
fn content_types_are_those_of_the_api_server() {
    let table = [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "application/json", "application/json"),
        (PROTOBUF, PROTOBUF, "application/vnd.kubernetes.protobuf;stream=watch"),
        ("application/cbor", "application/cbor", "application/cbor-seq"),
        ("application/yaml", "application/yaml", "application/yaml"),
    ];
    for (accept, body, watch) in table {
        let media = MediaType::read(accept).unwrap();
        assert_eq!((media.content_type(false).as_str(), media.content_type(true).as_str()), (body, watch), "{accept}");
    }
    let discovery = MediaType::accepted([DISCOVERY]).unwrap()[0];
    assert_eq!(MediaType::read(&discovery.content_type(false)), Some(discovery));
    assert_eq!(MediaType::read("text/plain"), None);
    assert!(MediaType::read("application/json;pretty=1").unwrap().pretty);
}
