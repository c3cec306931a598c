//! Which requests pass which filters.
use super::request;
use crate::{
    apimachinery::request::Verb,
    filters::{
        chain::{Chain, FILTERS},
        context::{Context, Settings},
    },
};

fn names(context: &Context, agent: &str, verb: Verb, resource: &str) -> Option<Vec<&'static str>> {
    let chain = Chain::of(context, agent, &request(verb, resource))?;
    Some(FILTERS.iter().map(|filter| filter.name).filter(|name| chain.has(name)).collect())
}

/// The defaults of OpenYurt: cmd/yurthub/app/options/filters.go.
#[test]
fn clients_resources_and_verbs_are_those_of_openyurt() {
    use Verb::{Get, List, Patch, Watch};
    let repair = "endpointrepair";
    let table: [(&str, Verb, &str, &[&str]); 20] = [
        ("kubelet", List, "services", &["masterservice"]),
        ("kubelet", Watch, "services", &["masterservice"]),
        ("kubelet", Get, "services", &[]),
        ("kubelet", Get, "configmaps", &["inclusterconfig"]),
        ("kubelet", Watch, "configmaps", &["inclusterconfig"]),
        ("kubelet", List, "pods", &["serviceenvupdater"]),
        ("kubelet", Watch, "pods", &["serviceenvupdater"]),
        ("kubelet", Get, "pods", &["serviceenvupdater"]),
        ("kubelet", Patch, "pods", &["serviceenvupdater"]),
        ("kubelet", List, "endpointslices", &[repair]),
        ("kube-proxy", List, "services", &["discardcloudservice", "nodeportisolation"]),
        ("kube-proxy", Watch, "endpointslices", &[repair, "servicetopology", "forwardkubesvctraffic"]),
        ("kube-proxy", List, "endpoints", &[repair, "servicetopology"]),
        ("kube-proxy", Get, "endpoints", &[repair]),
        ("kube-proxy", List, "pods", &[]),
        ("coredns", Watch, "endpointslices", &[repair, "servicetopology"]),
        ("nginx-ingress-controller", List, "endpoints", &[repair, "servicetopology"]),
        ("coredns", List, "services", &[]),
        ("", List, "services", &[]),
        ("kube-proxy", Patch, "endpointslices", &[]),
    ];
    for (agent, verb, resource, wanted) in table {
        assert_eq!(names(&Context::default(), agent, verb, resource).unwrap(), wanted, "{agent} {verb:?} {resource}");
    }
    assert_eq!(names(&Context::default(), "kubelet", List, "secrets"), None);
    let mut of_metrics = request(List, "pods");
    of_metrics.resource.group = "metrics.k8s.io".into();
    assert!(Chain::of(&Context::default(), "kubelet", &of_metrics).is_none());
    let mut log = request(Get, "pods");
    log.subresource = "log".into();
    assert!(Chain::of(&Context::default(), "kubelet", &log).is_none());
    let mut status = request(Patch, "pods");
    status.subresource = "status".into();
    assert!(Chain::of(&Context::default(), "kubelet", &status).unwrap().has("serviceenvupdater"));
}

#[test]
fn settings_add_clients_and_take_filters_away() {
    let settings = |off: bool, disabled: &[&str], agents: &[(&str, &str)]| Settings {
        off,
        disabled: disabled.iter().map(ToString::to_string).collect(),
        agents: agents.iter().map(|(filter, agent)| (filter.to_string(), [agent.to_string()].into())).collect(),
    };
    let (foo, proxy) = ("foo", "kube-proxy");
    let table = [
        (settings(false, &[], &[("servicetopology", foo)]), foo, "endpoints", vec!["endpointrepair", "servicetopology"]),
        (settings(false, &[], &[("servicetopology", foo)]), foo, "services", vec![]),
        (settings(false, &[], &[("servicetopology", "")]), "", "endpoints", vec!["endpointrepair"]),
        (settings(false, &["discardcloudservice"], &[]), proxy, "services", vec!["nodeportisolation"]),
        (settings(false, &["servicetopology"], &[("servicetopology", foo)]), foo, "endpoints", vec!["endpointrepair"]),
        (settings(true, &[], &[("servicetopology", foo)]), foo, "endpoints", vec![]),
        (settings(true, &[], &[]), proxy, "services", vec![]),
    ];
    for (settings, agent, resource, wanted) in table {
        let context = Context { settings, ..Context::default() };
        assert_eq!(names(&context, agent, Verb::List, resource).unwrap(), wanted, "{context:?} {agent}");
    }
}
