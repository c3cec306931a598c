//! Names of sets: one list, as one user asked for it in one media type.
use crate::{
    apimachinery::{
        media::{MediaType, Shape},
        request::{GroupVersionResource, ResourceRequest, Verb},
    },
    store::{Policy, Priority},
};

/// What is kept together: the objects of one list or, where `selected` is `None`, objects that were asked for one by one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetKey {
    /// Who may read it: whoever the API server gave it to.
    pub user: String,
    /// As [`crate::apimachinery::request::GroupVersionResource`] prints it.
    pub resource: String,
    /// Empty: all namespaces, or a resource without namespaces.
    pub namespace: String,
    pub selected: Option<Selectors>,
    /// As [`MediaType::key`] prints it.
    pub media: String,
}

/// The user of lists that all share. Users of tokens have a space or a colon in their names, the node a colon.
const SHARED: &str = "shared";

/// Selectors in one spelling: terms in order, without spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selectors {
    pub labels: String,
    pub fields: String,
}

/// Resources that are never kept: each answer is of one moment, or is the secret of one caller.
const NEVER: &[&str] = &[
    "subjectaccessreviews",
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
    "localsubjectaccessreviews",
    "selfsubjectreviews",
    "tokenreviews",
    "certificatesigningrequests",
];

/// What a node needs to start its pods: it survives a power cut, and is evicted last.
const SYNCED: &[&str] = &[
    "pods.",
    "secrets.",
    "configmaps.",
    "services.",
    "endpointslices.",
    "endpoints.",
    "nodes.",
    "persistentvolumes.",
    "persistentvolumeclaims.",
];

/// How a set is kept.
pub fn policy(set: &str) -> Policy {
    match SetKey::read(set) {
        // Users and documents: without them nobody is answered.
        None => Policy { synced: true, priority: Priority(3) },
        Some(key) if SYNCED.iter().any(|resource| key.resource.starts_with(resource)) => Policy { synced: true, priority: Priority(2) },
        Some(key) if key.resource.starts_with("events.") => Policy { synced: false, priority: Priority(0) },
        Some(_) => Policy { synced: false, priority: Priority(1) },
    }
}

impl SetKey {
    /// The set that a response belongs to; `None` for one that is not kept.
    pub fn of(user: &str, request: &ResourceRequest, media: MediaType) -> Option<SetKey> {
        let kept = request.verb.reads() && request.subresource.is_empty() && !NEVER.contains(&request.resource.resource.as_str());
        if !kept || matches!(media.shape, Shape::ApiGroupDiscoveryList { .. }) {
            return None;
        }
        let selectors =
            || Selectors { labels: canonical(&request.options.label_selector), fields: canonical(&request.options.field_selector) };
        Some(SetKey {
            user: user.to_string(),
            resource: request.resource.to_string(),
            namespace: request.namespace.clone(),
            selected: (request.verb != Verb::Get).then(selectors),
            media: media.key(),
        })
    }

    /// The list of all objects of a resource that all who may read it share.
    pub fn shared(resource: &GroupVersionResource, media: MediaType) -> SetKey {
        SetKey {
            user: SHARED.into(),
            resource: resource.to_string(),
            namespace: String::new(),
            selected: Some(Selectors::default()),
            media: media.key(),
        }
    }

    /// The resource and the media type, as the hubs of a pool name what they share.
    pub fn kind(&self) -> String {
        format!("{}/{}", self.resource, self.media)
    }

    pub fn is_shared(&self) -> bool {
        self.user == SHARED
    }

    /// The name in the store. No part has a line feed: names, selectors and media types cannot have one.
    pub fn name(&self) -> String {
        let (kind, labels, fields) = match &self.selected {
            None => ("objects", "", ""),
            Some(s) => ("list", s.labels.as_str(), s.fields.as_str()),
        };
        [self.user.as_str(), &self.resource, &self.namespace, &self.media, kind, labels, fields].join("\n")
    }

    /// Reads what [`SetKey::name`] has made.
    pub fn read(name: &str) -> Option<SetKey> {
        let parts: Vec<&str> = name.split('\n').collect();
        let [user, resource, namespace, media, kind, labels, fields] = parts[..] else { return None };
        let selectors = || Selectors { labels: labels.into(), fields: fields.into() };
        Some(SetKey {
            user: user.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            selected: (kind == "list").then(selectors),
            media: media.into(),
        })
    }

    /// The path and the query of a request for the list, with further parameters. `None` for objects that were asked for one by one.
    pub fn target(&self, parameters: &[(&str, &str)]) -> Option<String> {
        let selected = self.selected.as_ref()?;
        let mut parts = self.resource.splitn(3, '.');
        let (resource, version) = (parts.next()?, parts.next()?);
        let mut target = match parts.next() {
            None => format!("/api/{version}"),
            Some(group) => format!("/apis/{group}/{version}"),
        };
        if !self.namespace.is_empty() {
            target.extend(["/namespaces/", &self.namespace]);
        }
        target.extend(["/", resource]);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let selectors = [("labelSelector", selected.labels.as_str()), ("fieldSelector", selected.fields.as_str())];
        let all = selectors.iter().filter(|(_, value)| !value.is_empty()).chain(parameters);
        query.extend_pairs(all);
        let query = query.finish();
        if !query.is_empty() {
            target.extend(["?", &query]);
        }
        Some(target)
    }

    /// Whether this is a whole list in which an object of a namespace has to be, if there is one.
    pub fn holds_all_of(&self, namespace: &str) -> bool {
        self.selected.as_ref().is_some_and(|s| *s == Selectors::default()) && (self.namespace.is_empty() || self.namespace == namespace)
    }
}

/// Clients write the same selector in different orders.
fn canonical(selector: &str) -> String {
    // A set of values, `a in (b,c)`, has commas of its own.
    let mut terms = Vec::new();
    let (mut depth, mut from) = (0, 0);
    for (at, c) in selector.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&selector[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[from..]);
    let mut terms: Vec<String> = terms.iter().map(|t| t.trim().replace("==", "=").replace('\n', " ")).filter(|t| !t.is_empty()).collect();
    terms.sort();
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apimachinery::request::RequestInfo;

    fn key(target: &str) -> Option<SetKey> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let RequestInfo::Resource(request) = RequestInfo::read(&http::Method::GET, path, query) else { panic!("{target}") };
        SetKey::of("u", &request, MediaType::JSON)
    }

    #[test]
    fn requests_for_the_same_list_share_a_set() {
        let same = [
            "/api/v1/pods?labelSelector=a%3Db,c%3Dd&resourceVersion=0",
            "/api/v1/pods?labelSelector=c%3D%3Dd,%20a%3Db&watch=1&resourceVersion=7",
            "/api/v1/pods?labelSelector=a%3Db,c%3Dd&limit=500&continue=x",
        ];
        for target in same {
            assert_eq!(key(target), key(same[0]), "{target}");
        }
        let others = [
            "/api/v1/pods",
            "/api/v1/pods?labelSelector=a%3Db",
            "/api/v1/pods?fieldSelector=a%3Db,c%3Dd",
            "/api/v1/namespaces/n/pods?labelSelector=a%3Db,c%3Dd",
            "/api/v1/services?labelSelector=a%3Db,c%3Dd",
        ];
        for target in others {
            assert_ne!(key(target), key(same[0]), "{target}");
        }
        assert_eq!(key("/api/v1/pods?labelSelector=x%20in%20(b,a),c").unwrap().selected.unwrap().labels, "c,x in (b,a)");
    }

    #[test]
    fn a_list_can_be_asked_for_again() {
        let table = [
            ("/api/v1/pods", "/api/v1/pods"),
            ("/apis/apps/v1/namespaces/n/deployments?limit=5", "/apis/apps/v1/namespaces/n/deployments"),
            (
                "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=!a,b%20in%20(c,d)&fieldSelector=metadata.namespace!%3Dx",
                "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21a%2Cb+in+%28c%2Cd%29&fieldSelector=metadata.namespace%21%3Dx",
            ),
        ];
        for (asked, wanted) in table {
            let made = key(asked).unwrap();
            let target = made.target(&[]).unwrap();
            assert_eq!(target, wanted);
            assert_eq!(key(&target), Some(made.clone()), "{asked}");
            assert!(made.target(&[("watch", "1")]).unwrap().ends_with("watch=1"));
        }
        assert_eq!(key("/api/v1/namespaces/n/pods/p").unwrap().target(&[]), None);
    }

    #[test]
    fn names_are_read_back_and_some_answers_are_not_kept() {
        for target in ["/api/v1/pods?labelSelector=a%3Db", "/api/v1/namespaces/n/pods/p", "/apis/apps/v1/deployments"] {
            let made = key(target).unwrap();
            assert_eq!(SetKey::read(&made.name()).as_ref(), Some(&made), "{target}");
        }
        for target in ["/api/v1/namespaces/n/pods/p/log", "/apis/authentication.k8s.io/v1/tokenreviews"] {
            assert_eq!(key(target), None, "{target}");
        }
        let whole = key("/api/v1/pods").unwrap();
        assert!(whole.holds_all_of("n") && !key("/api/v1/pods?labelSelector=a").unwrap().holds_all_of("n"));
        assert!(
            !key("/api/v1/namespaces/m/pods").unwrap().holds_all_of("n") && !key("/api/v1/namespaces/n/pods/p").unwrap().holds_all_of("n")
        );
    }
}
