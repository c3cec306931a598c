//! Secrets in usable form: parsed once per version, with the last good version kept when a new one is broken.
use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Name, Secret, SecretContent},
};
use weir_net::tls::{Certificate, Details, Roots};

/// One secret that can be used.
#[derive(Clone)]
pub enum SecretRt {
    Certificate(Arc<Certificate>),
    Roots(Roots),
}

struct Entry {
    given: Arc<Secret>,
    /// The newest version that could be read.
    good: Option<SecretRt>,
}

/// What came of a secret.
pub struct Changed {
    /// Its usable form is another now.
    pub usable: bool,
    pub findings: Vec<Diagnostic>,
}

/// All secrets by name.
#[derive(Default)]
pub struct Secrets {
    entries: HashMap<Name, Entry>,
}

impl Secrets {
    /// Takes over a secret that is new or has changed. `None`: it says the same as before.
    pub fn set(&mut self, secret: &Arc<Secret>) -> Option<Changed> {
        let before = self.entries.get_mut(&secret.name);
        if let Some(entry) = before
            && entry.given == *secret
        {
            entry.given = secret.clone();
            return None;
        }
        let (good, findings) = parse(secret);
        let before = self.entries.remove(&secret.name);
        let usable = good.is_some() || before.is_none();
        let good = good.or_else(|| before.and_then(|e| e.good));
        self.entries.insert(secret.name.clone(), Entry { given: secret.clone(), good });
        Some(Changed { usable, findings })
    }

    pub fn remove(&mut self, name: &Name) -> bool {
        self.entries.remove(name).is_some()
    }

    /// As they were given.
    pub fn given(&self) -> impl Iterator<Item = (&Name, &Arc<Secret>)> {
        self.entries.iter().map(|(name, e)| (name, &e.given))
    }

    pub fn certificate(&self, name: &Name) -> Result<Arc<Certificate>, Diagnostic> {
        match self.good(name)? {
            SecretRt::Certificate(c) => Ok(c.clone()),
            SecretRt::Roots(_) => {
                Err(Diagnostic::error("InvalidSecret", format!("the secret `{name}` holds roots, not a certificate with its key")))
            }
        }
    }

    pub fn roots(&self, name: &Name) -> Result<Roots, Diagnostic> {
        match self.good(name)? {
            SecretRt::Roots(r) => Ok(r.clone()),
            SecretRt::Certificate(_) => {
                Err(Diagnostic::error("InvalidSecret", format!("the secret `{name}` holds a certificate, not roots")))
            }
        }
    }

    fn good(&self, name: &Name) -> Result<&SecretRt, Diagnostic> {
        let entry = self.entries.get(name).ok_or_else(|| Diagnostic::error("SecretNotFound", format!("there is no secret `{name}`")))?;
        entry.good.as_ref().ok_or_else(|| Diagnostic::error("InvalidSecret", format!("the secret `{name}` cannot be used")))
    }

    /// What to show of every certificate that can be served, in the order of names.
    pub fn certificates(&self) -> Vec<(Name, Details)> {
        let details = |(name, e): (&Name, &Entry)| match &e.good {
            Some(SecretRt::Certificate(c)) => Some((name.clone(), c.details.clone())),
            _ => None,
        };
        let mut out: Vec<_> = self.entries.iter().filter_map(details).collect();
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }
}

/// The usable form, if there is one, and what is to be said.
fn parse(secret: &Secret) -> (Option<SecretRt>, Vec<Diagnostic>) {
    let name = &secret.name;
    let place = |d: Diagnostic| match &secret.origin {
        Some(origin) => d.from_origin(origin),
        None => d,
    };
    let refused = |why: String, help: &str| {
        let d = Diagnostic::error("InvalidSecret", format!("the secret `{name}` cannot be used: {why}")).help(help);
        (None, vec![place(d)])
    };
    match &secret.content {
        SecretContent::TlsCertificate { certificate_chain, private_key } => match Certificate::from_pem(certificate_chain, private_key) {
            Err(e) => refused(e.to_string(), "PEM texts of a certificate chain, leaf first, and of its private key are accepted"),
            Ok(c) => {
                let findings = validity(name, &c).into_iter().map(place).collect();
                (Some(SecretRt::Certificate(Arc::new(c))), findings)
            }
        },
        SecretContent::ValidationContext { trusted_ca, crl } => match Roots::from_pem(trusted_ca, crl.as_deref()) {
            Err(e) => refused(
                e.to_string(),
                "PEM texts of one or more certificates of authorities are accepted, and of their revocation lists (version 2)",
            ),
            Ok(roots) => {
                let findings = up_to_date(name, &roots).into_iter().map(place).collect();
                (Some(SecretRt::Roots(roots)), findings)
            }
        },
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn up_to_date(name: &Name, roots: &Roots) -> Option<Diagnostic> {
    let until = roots.next_update.filter(|until| *until <= now())?;
    let text = format!("a revocation list in the secret `{name}` was to be renewed by {}", crate::app_log::rfc3339(until));
    Some(Diagnostic::warning("RevocationListExpired", text).help("all certificates of its issuer are refused until it is; renew it"))
}

fn validity(name: &Name, c: &Certificate) -> Option<Diagnostic> {
    let now = now();
    let at = |seconds| crate::app_log::rfc3339(seconds);
    if c.details.not_after <= now {
        let text = format!("the certificate in the secret `{name}` expired at {}", at(c.details.not_after));
        return Some(Diagnostic::warning("CertificateExpired", text).help("clients refuse it; renew it"));
    }
    if c.details.not_before > now {
        let text = format!("the certificate in the secret `{name}` is valid from {} only", at(c.details.not_before));
        return Some(Diagnostic::warning("CertificateNotYetValid", text).help("clients refuse it until then; check the clock"));
    }
    None
}
