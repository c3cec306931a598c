//! Which filters a request passes, in their order.
use super::{
    context::Context,
    discardcloudservice,
    draft::{Draft, Replaced},
    endpointrepair, forwardkubesvctraffic, inclusterconfig, masterservice, nodeportisolation,
    outcome::Outcome,
    served::Served,
    serviceenvupdater, servicetopology,
    stats::{Count, Stats},
};
use crate::apimachinery::{
    object::Object,
    request::{ResourceRequest, Verb},
    schema::ContentError,
};
use memchr::memmem;
use std::sync::atomic::AtomicU64;

pub struct Filter {
    pub name: &'static str,
    /// Clients, as [`crate::settings::agent`] reads their names; `*`: all.
    pub agents: &'static [&'static str],
    pub resources: &'static [&'static str],
    verbs: &'static [Verb],
    /// Texts of which an object has one in its bytes if it matters to the filter; none: any object may.
    texts: &'static [&'static str],
    /// Whether it can change anything at the moment.
    active: fn(&Context) -> bool,
    /// Whether it may change an object, whatever the context.
    concerns: fn(&Object) -> bool,
    apply: fn(&mut Draft<'_>, &Context) -> Result<Outcome, ContentError>,
}

const LISTS: &[Verb] = &[Verb::List, Verb::Watch];
const READS: &[Verb] = &[Verb::Get, Verb::List, Verb::Watch];

/// The filters, in the order in which they see an object.
pub static FILTERS: [Filter; 8] = [
    Filter {
        name: endpointrepair::NAME,
        agents: &["*"],
        resources: &["endpoints", "endpointslices"],
        verbs: READS,
        texts: &[],
        active: |context| !context.repairs.is_empty(),
        concerns: |_| true,
        apply: endpointrepair::apply,
    },
    Filter {
        name: servicetopology::NAME,
        agents: &["kube-proxy", "coredns", "nginx-ingress-controller"],
        resources: &["endpoints", "endpointslices"],
        verbs: LISTS,
        texts: &[],
        active: |context| !context.topology.is_empty(),
        concerns: |_| true,
        apply: servicetopology::apply,
    },
    Filter {
        name: masterservice::NAME,
        agents: &["kubelet"],
        resources: &["services"],
        verbs: LISTS,
        texts: &[masterservice::SERVICE],
        active: |context| context.hub.is_some(),
        concerns: masterservice::concerns,
        apply: masterservice::apply,
    },
    Filter {
        name: discardcloudservice::NAME,
        agents: &["kube-proxy"],
        resources: &["services"],
        verbs: LISTS,
        texts: discardcloudservice::TEXTS,
        active: |_| true,
        concerns: discardcloudservice::concerns,
        apply: discardcloudservice::apply,
    },
    Filter {
        name: inclusterconfig::NAME,
        agents: &["kubelet"],
        resources: &["configmaps"],
        verbs: READS,
        texts: &[inclusterconfig::MAP],
        active: |context| context.hub.is_some(),
        concerns: inclusterconfig::concerns,
        apply: inclusterconfig::apply,
    },
    Filter {
        name: nodeportisolation::NAME,
        agents: &["kube-proxy"],
        resources: &["services"],
        verbs: LISTS,
        texts: &[nodeportisolation::ANNOTATION],
        active: |context| context.pool.is_some(),
        concerns: nodeportisolation::concerns,
        apply: nodeportisolation::apply,
    },
    Filter {
        name: forwardkubesvctraffic::NAME,
        agents: &["kube-proxy"],
        resources: &["endpointslices"],
        verbs: LISTS,
        texts: &[masterservice::SERVICE],
        active: |context| context.hub.is_some(),
        concerns: masterservice::concerns,
        apply: forwardkubesvctraffic::apply,
    },
    Filter {
        name: serviceenvupdater::NAME,
        agents: &["kubelet"],
        resources: &["pods"],
        verbs: &[Verb::Get, Verb::List, Verb::Watch, Verb::Patch],
        texts: &[serviceenvupdater::PREFIX],
        active: |context| context.hub.is_some(),
        concerns: serviceenvupdater::concerns,
        apply: serviceenvupdater::apply,
    },
];

/// What a client sees of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Replace(Replaced),
    Drop,
}

/// The filters of a request in a context.
pub type ChainOf = Box<dyn Fn(&Context) -> Option<Chain> + Send + Sync>;

/// The filters of one request.
#[derive(Clone)]
pub struct Chain {
    pub served: &'static Served,
    filters: Vec<&'static Filter>,
}

impl Chain {
    /// `None` for what no filter ever sees.
    pub fn of(context: &Context, agent: &str, request: &ResourceRequest) -> Option<Chain> {
        let served = Served::of(&request.resource)?;
        let whole = request.subresource.is_empty() || request.verb == Verb::Patch && request.subresource == "status";
        let is_for = |filter: &&Filter| {
            let settings = &context.settings;
            let own = filter.agents.iter().any(|name| *name == "*" || *name == agent);
            let named = || settings.agents.get(filter.name).is_some_and(|agents| agents.contains(agent));
            filter.resources.contains(&served.resource)
                && filter.verbs.contains(&request.verb)
                && !settings.off
                && !settings.disabled.contains(filter.name)
                && (own || !agent.is_empty() && named())
        };
        whole.then(|| Chain { served, filters: FILTERS.iter().filter(is_for).collect() })
    }

    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    pub fn has(&self, name: &str) -> bool {
        self.filters.iter().any(|filter| filter.name == name)
    }

    /// Whether any of them can change anything at the moment.
    pub fn is_active(&self, context: &Context) -> bool {
        self.filters.iter().any(|filter| (filter.active)(context))
    }

    /// Whether any of them may change an object, now or in another context.
    pub fn concerns(&self, object: &Object) -> bool {
        self.filters.iter().any(|filter| (filter.concerns)(object))
    }

    /// Whether any of them may change an object with these bytes. It is cheaper than a look at the object.
    pub fn may_concern(&self, object: &[u8]) -> bool {
        let has = |text: &&str| memmem::find(object, text.as_bytes()).is_some();
        self.filters.iter().any(|filter| filter.texts.is_empty() || filter.texts.iter().any(has))
    }

    /// Counts an object that comes to the filters.
    pub fn saw(&self, stats: &Stats) {
        self.filters.iter().for_each(|filter| stats.add(filter.name, self.served.resource, |count| &count.seen));
    }

    /// What the client sees of an object. `before`: the mark of what it has, if it has a changed one.
    pub fn apply(&self, object: &Object, context: &Context, before: Option<u64>) -> Result<Verdict, ContentError> {
        self.run(object, context, before, None)
    }

    /// The same, and counts what each filter did.
    pub fn count(&self, object: &Object, context: &Context, before: Option<u64>, stats: &Stats) -> Result<Verdict, ContentError> {
        self.run(object, context, before, Some(stats))
    }

    fn run(&self, object: &Object, context: &Context, before: Option<u64>, stats: Option<&Stats>) -> Result<Verdict, ContentError> {
        let mut draft = Draft::new(object, self.served);
        let count = |filter: &Filter, number: fn(&Count) -> &AtomicU64| {
            stats.into_iter().for_each(|stats| stats.add(filter.name, self.served.resource, number));
        };
        for filter in self.filters.iter().filter(|filter| (filter.active)(context) && (filter.concerns)(object)) {
            let edits = draft.edits();
            if (filter.apply)(&mut draft, context)? == Outcome::Drop {
                count(filter, |count| &count.dropped);
                return Ok(Verdict::Drop);
            }
            if draft.edits() > edits {
                count(filter, |count| &count.changed);
            }
        }
        Ok(draft.finish(before)?.map_or(Verdict::Keep, Verdict::Replace))
    }
}
