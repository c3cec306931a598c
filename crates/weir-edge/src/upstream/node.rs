//! The certificates of nodes.
use weir_net::tls::Details;

const USER: &str = "CN=system:node:";
const GROUP: &str = "O=system:nodes";

/// The name of the node whose certificate it is: its user is `system:node:NAME`, in the group `system:nodes`.
pub fn node_of(details: &Details) -> Option<&str> {
    // With an escape, a comma may be part of a value.
    let subject = Some(details.subject.as_str()).filter(|subject| !subject.contains('\\'))?;
    let name = subject.split(',').find_map(|part| part.strip_prefix(USER))?;
    (!name.is_empty() && subject.split(',').any(|part| part == GROUP)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::DnType::{CommonName, OrganizationName};
    use weir_test::Ca;

    #[test]
    fn only_certificates_of_nodes_name_a_node() {
        let ca = Ca::new();
        let table: [(&str, &[&str], Option<&str>); 7] = [
            ("system:node:a", &["system:nodes"], Some("a")),
            ("system:node:a", &["other", "system:nodes"], Some("a")),
            ("system:node:a", &[], None),
            ("system:node:a", &["system:masters"], None),
            ("system:node:a", &["x,O=system:nodes"], None),
            ("system:node:", &["system:nodes"], None),
            ("kube-proxy", &["system:nodes"], None),
        ];
        for (name, groups, wanted) in table {
            let signed = ca.sign_with(&[], |params| {
                params.distinguished_name.push(CommonName, name);
                groups.iter().for_each(|group| params.distinguished_name.push(OrganizationName, *group));
            });
            let details = Details::from_der(&signed.der).unwrap();
            assert_eq!(node_of(&details), wanted, "{}", details.subject);
        }
    }
}
