//! From a listener's configuration to what accepts for it. A chain that cannot be built is left out, or its last good
//! version stays; the others serve.
use super::{ChainRt, CompileLogs, DrainGroup, ListenerRt, TcpProxyRt, network_filters, udp_proxy::UdpProxyRt};
use crate::{
    cluster::{ClusterRegistry, manager::version},
    secrets::Secrets,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{ClientCertificate, DownstreamTls, FilterChain, HttpTimeouts, Listener, Name, NetworkFilter},
};
use weir_net::tls::{self, CertificateTable, ClientAuth};

/// The run-time form of `config`. `changed_secrets` says which secrets are others than in `before`. A chain that is `held` stays as it
/// is in `before`, or is left out.
pub(crate) fn build(
    config: &Arc<Listener>,
    before: Option<&ListenerRt>,
    secrets: &Secrets,
    changed_secrets: &HashSet<Name>,
    clusters: &ClusterRegistry,
    logs: &mut CompileLogs<'_>,
    held: &dyn Fn(&FilterChain) -> bool,
) -> (ListenerRt, Vec<Diagnostic>) {
    let mut findings = Vec::new();
    let mut chains = Vec::with_capacity(config.filter_chains.len());
    let old: HashMap<&Name, &Arc<ChainRt>> = before.into_iter().flat_map(|b| &b.chains).map(|c| (&c.config.name, c)).collect();
    for chain in &config.filter_chains {
        let old = old.get(&chain.name).copied();
        if held(chain) {
            chains.extend(old.cloned());
            continue;
        }
        if let Some(old) = old
            && Arc::ptr_eq(&old.config, chain)
            && !uses(chain, changed_secrets)
        {
            // Its secrets may still lack what they lacked before.
            if let Some(options) = &chain.tls {
                certificates(options, secrets, &mut findings);
            }
            chains.push(old.clone());
            continue;
        }
        match self::chain(chain, old.map(|o| &**o), secrets, changed_secrets, clusters, logs, &mut findings) {
            Ok(new) => chains.push(Arc::new(new)),
            Err(why) => {
                findings.push(why);
                chains.extend(old.cloned());
            }
        }
    }
    let findings =
        findings.into_iter().map(|d| Diagnostic { message: format!("listener `{}`: {}", config.name, d.message), ..d }).collect();
    (ListenerRt::index(config.clone(), chains), findings)
}

/// Serves changed certificates in the chains that are there. `false`: more than that is to be done, and nothing was.
pub(crate) fn renew(rt: &ListenerRt, secrets: &Secrets, changed: &HashSet<Name>) -> bool {
    if rt.chains.len() != rt.config.filter_chains.len() {
        return false;
    }
    let mut renewed = Vec::new();
    for (chain, config) in rt.chains.iter().zip(&rt.config.filter_chains).filter(|(_, config)| uses(config, changed)) {
        let (Some(server), Some(options)) = (&chain.tls, &config.tls) else { return false };
        let mut findings = Vec::new();
        let certificates = certificates(options, secrets, &mut findings);
        let other_roots = options.client_ca.as_ref().is_some_and(|ca| changed.contains(ca));
        if other_roots || !findings.is_empty() || !Arc::ptr_eq(&chain.config, config) {
            return false;
        }
        renewed.push((server, CertificateTable::new(&certificates)));
    }
    for (server, table) in renewed {
        server.set_certificates(table);
    }
    true
}

/// The secrets that a listener names.
pub(crate) fn secrets_of(config: &Listener) -> impl Iterator<Item = &Name> {
    config.filter_chains.iter().filter_map(|c| c.tls.as_ref()).flat_map(|t| t.certificates.iter().chain(&t.client_ca))
}

fn chain(
    config: &Arc<FilterChain>,
    old: Option<&ChainRt>,
    secrets: &Secrets,
    changed_secrets: &HashSet<Name>,
    clusters: &ClusterRegistry,
    logs: &mut CompileLogs<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Result<ChainRt, Diagnostic> {
    let mut same_tls = old.is_some_and(|o| o.config.tls.is_none() && config.tls.is_none());
    let tls = match &config.tls {
        None => None,
        Some(options) => {
            let certificates = certificates(options, secrets, findings);
            if certificates.is_empty() {
                let text = format!("the filter chain `{}` has no certificate that can be served", config.name);
                return Err(Diagnostic::error("InvalidTls", text)
                    .help("every connection to it would fail; name a secret with a certificate and its key"));
            }
            let table = CertificateTable::new(&certificates);
            let same = old.filter(|o| o.config.tls.as_ref().is_some_and(|t| same_options(t, options)));
            same_tls = same.is_some();
            // Other roots need another server: the old one's sessions must not be resumed under them.
            let same_roots = !options.client_ca.as_ref().is_some_and(|ca| changed_secrets.contains(ca));
            match same.and_then(|o| o.tls.clone()).filter(|_| same_roots) {
                Some(server) => {
                    server.set_certificates(table);
                    Some(server)
                }
                None => Some(Arc::new(server(config, options, table, secrets)?)),
            }
        }
    };
    check_filters(config)?;
    let same_kind = |o: &&ChainRt| o.config.tcp_proxy().is_some() == config.tcp_proxy().is_some();
    let http_timeouts = config.http_connection_manager().map_or_else(HttpTimeouts::default, |hcm| hcm.timeouts.clone());
    let drain_timeout = http_timeouts.drain_timeout;
    let drain_group = old.filter(|_| same_tls).filter(same_kind).map_or_else(|| DrainGroup::new(drain_timeout), |o| o.drain_group.clone());
    let tcp = config.tcp_proxy().map(|tcp| TcpProxyRt::new(tcp, clusters, logs));
    let udp = config.udp_proxy().map(|udp| UdpProxyRt::new(udp, clusters, logs));
    let rbac = network_filters::compile(&config.filters)
        .map_err(|e| Diagnostic::error("InvalidRbac", format!("the RBAC filter of the filter chain `{}`: {e}", config.name)))?;
    Ok(ChainRt { config: config.clone(), tls, rbac, tcp, udp, drain_group })
}

/// One terminal filter, at the end.
fn check_filters(config: &FilterChain) -> Result<(), Diagnostic> {
    if config.filters.iter().position(NetworkFilter::is_terminal).map(|p| p + 1) == Some(config.filters.len()) {
        return Ok(());
    }
    let text =
        format!("the filter chain `{}` must end in an HTTP connection manager, a TCP proxy or a UDP proxy, and have no other", config.name);
    Err(Diagnostic::error("InvalidValue", text))
}

/// The certificates of a chain that can be served; for the others a finding.
fn certificates(options: &DownstreamTls, secrets: &Secrets, findings: &mut Vec<Diagnostic>) -> Vec<Arc<tls::Certificate>> {
    options.certificates.iter().filter_map(|name| secrets.certificate(name).map_err(|d| findings.push(d)).ok()).collect()
}

fn uses(chain: &FilterChain, changed: &HashSet<Name>) -> bool {
    let tls = chain.tls.as_ref();
    !changed.is_empty() && tls.is_some_and(|t| t.certificates.iter().chain(&t.client_ca).any(|name| changed.contains(name)))
}

/// Whether two contexts differ in certificates at most.
fn same_options(a: &DownstreamTls, b: &DownstreamTls) -> bool {
    let a = DownstreamTls { certificates: b.certificates.clone(), ..a.clone() };
    a == *b
}

/// What client certificates must be beyond well signed.
fn demands(options: &DownstreamTls) -> Result<tls::Demands, Diagnostic> {
    let bad = |text: &String| {
        Diagnostic::error("InvalidTls", format!("`{text}` is no SHA-256")).help("64 hexadecimal digits for a certificate, base64 for a key")
    };
    let hex = |text: &String| -> Option<[u8; 32]> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        digits?.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect::<Vec<_>>().try_into().ok()
    };
    let base64 = |text: &String| -> Option<[u8; 32]> { BASE64_STANDARD.decode(text).ok()?.try_into().ok() };
    Ok(tls::Demands {
        names: options.subject_alt_names.clone(),
        digests: options.verify_certificate_hash.iter().map(|t| hex(t).ok_or_else(|| bad(t))).collect::<Result<_, _>>()?,
        key_digests: options.verify_certificate_spki.iter().map(|t| base64(t).ok_or_else(|| bad(t))).collect::<Result<_, _>>()?,
    })
}

fn server(chain: &FilterChain, options: &DownstreamTls, table: CertificateTable, secrets: &Secrets) -> Result<tls::Server, Diagnostic> {
    let roots = || {
        let name = options.client_ca.as_ref();
        let name = name.ok_or_else(|| {
            Diagnostic::error("InvalidTls", "client certificates are asked for, but no roots to verify them against are named")
                .help("name a secret with the authority's certificate")
        });
        secrets.roots(name?)
    };
    let client_auth = match options.client_certificate {
        ClientCertificate::None => ClientAuth::None,
        ClientCertificate::Optional => ClientAuth::Optional(roots()?),
        ClientCertificate::Required => ClientAuth::Required(roots()?),
        ClientCertificate::AcceptUntrusted => ClientAuth::Any(roots()?),
    };
    let default = || match chain.http_connection_manager() {
        Some(_) => vec!["h2".to_string(), "http/1.1".to_string()],
        // The protocol of a TCP proxy's bytes is not known.
        None => Vec::new(),
    };
    let options = tls::ServerOptions {
        alpn: if options.alpn.is_empty() { default() } else { options.alpn.clone() },
        min_version: options.min_version.map(version),
        max_version: options.max_version.map(version),
        client_auth,
        cipher_suites: options.cipher_suites.clone(),
        demands: demands(options)?,
    };
    tls::Server::new(options, table).map_err(|e| {
        Diagnostic::error("InvalidTls", format!("TLS cannot be set up: {e}"))
            .help("versions from TLSv1_2 to TLSv1_3 are accepted, min not above max")
    })
}
