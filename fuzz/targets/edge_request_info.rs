//! Paths and queries of requests to the API server: names that are read can stand in a path again.
#![no_main]
use libfuzzer_sys::fuzz_target;
use weir_edge::apimachinery::request::RequestInfo;

fuzz_target!(|text: &str| {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    for method in [http::Method::GET, http::Method::POST, http::Method::PUT, http::Method::PATCH, http::Method::DELETE] {
        if let RequestInfo::Resource(request) = RequestInfo::read(&method, path, query) {
            assert!(!request.resource.resource.is_empty());
            for part in [&request.namespace, &request.resource.group, &request.resource.version, &request.resource.resource] {
                assert!(!part.contains('/') && part != "..");
            }
        }
    }
});
