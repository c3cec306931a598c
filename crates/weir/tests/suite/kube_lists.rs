//! How `weir gateway` reads a kind for the first time: by a streaming list, and by a plain list where the API server has no streaming lists.
use crate::{
    harness::{Kube, eventually},
    kube_gateway::{Gateway, base, route},
};
use weir_test::kube::programs::{API, programs};

/// The sum of a counter of kube-apiserver over the series with these labels.
fn counted(kube: &Kube, name: &str, labels: &[&str]) -> f64 {
    let metrics = kube.api("GET", "/metrics", "text/plain", b"").unwrap().body;
    let series = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    let wanted = series.filter(|(found, _)| labels.iter().all(|label| found.contains(label)));
    wanted.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

#[test]
fn lists_are_streamed_where_the_server_can() {
    for (flags, streams) in [(&[][..], true), (&["-apiserver-arg", "--feature-gates=WatchList=false"][..], false)] {
        let programs = programs(API).unwrap();
        let definitions = programs.definitions.clone();
        let kube = Kube::with(programs, &[&["-api-only"], flags].concat(), &definitions);
        kube.apply(&(base("lists") + &route("lists", "a", "a.test")));
        let gateway = Gateway::ready(&kube, 16, &[]);
        gateway.answers("a.test", 302);
        // Nobody else reads these kinds.
        for resource in ["resource=\"httproutes\"", "resource=\"virtualservices\""] {
            let streamed = || counted(&kube, "apiserver_watch_list_duration_seconds_count", &[resource]);
            let listed = || counted(&kube, "apiserver_request_total", &[resource, "verb=\"LIST\""]);
            // A request is counted behind its answer.
            eventually(&format!("{resource} of {flags:?}: {} streamed, {} listed", streamed(), listed()), || {
                ((streamed() > 0.0) == streams && (listed() > 0.0) != streams).then_some(())
            });
        }
        // What is created later comes by the watch behind the list.
        kube.apply(&route("lists", "b", "b.test"));
        gateway.answers("b.test", 302);
    }
}
