//! Labels and what selects by them.
use std::collections::BTreeMap;
use weir_config::reader::{Field, Object};

/// Labels, of something or to select by.
pub type Labels = BTreeMap<String, String>;

/// A map of labels; empty where the field is absent.
pub fn labels(object: &Object<'_>, name: &'static str) -> Labels {
    object.entries(name).into_iter().filter_map(|(k, v)| Some((k.to_string(), v.str()?.to_string()))).collect()
}

/// A `workloadSelector`: its map of labels is called `labels` or `matchLabels`.
pub fn selector(field: &Field<'_>, name: &'static str) -> Option<Labels> {
    Some(labels(&field.object()?, name))
}

/// Whether all labels of a selector are among those of something.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
