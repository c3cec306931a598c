//! The certificates of a hub.
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};
use weir_edge::{
    identity::{
        bootstrap::{Bootstrap, Discovery, pin::Pin, token::Token},
        certificate::{manager, self_signed},
        serving::KeyPairFiles,
    },
    upstream::credentials::Files,
};

/// How the hub gets the certificate of the node. The names are those of YurtHub's `--bootstrap-mode`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It asks for a certificate of its own, with a bootstrap token
    Token,
    /// It uses the one that kubelet keeps
    #[value(name = "kubeletcertificate")]
    KubeletCertificate,
}

#[derive(Args, Clone, Debug)]
pub struct Identity {
    /// Whose certificate the hub shows to API servers [default: token if there is --join-token or --bootstrap-file]
    #[arg(long, value_name = "MODE")]
    bootstrap_mode: Option<Mode>,
    /// A bootstrap token, as `kubeadm token create` prints it
    #[arg(long, value_name = "TOKEN", env = "WEIR_JOIN_TOKEN", hide_env_values = true, conflicts_with = "bootstrap_file")]
    join_token: Option<Token>,
    /// The public key of the cluster's certificate authority, as `kubeadm token create --print-join-command` prints it: for --join-token
    /// without --certificate-authority; repeat it for several
    #[arg(long, value_name = "sha256:HEX", value_delimiter = ',', requires = "join_token")]
    discovery_token_ca_cert_hash: Vec<Pin>,
    /// Trust the certificate authority that the token alone signs: anyone who knows the token can pose as the API server
    #[arg(long, requires = "join_token", conflicts_with = "discovery_token_ca_cert_hash")]
    discovery_token_unsafe_skip_ca_verification: bool,
    /// A kubeconfig with a bootstrap token, read again for each attempt
    #[arg(long, value_name = "FILE")]
    bootstrap_file: Option<PathBuf>,
    /// Where the hub keeps certificates that it asks for or signs
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/weir/pki")]
    cert_dir: PathBuf,
    /// The certificate authority of the cluster: API servers are verified with it, and clients that show a certificate [default:
    /// /etc/kubernetes/pki/ca.crt; `ca.crt` in --cert-dir where it comes with the bootstrap]
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// The certificate of the node; read again when the file changes [default:
    /// /var/lib/kubelet/pki/kubelet-client-current.pem; `edge-client-current.pem` in --cert-dir with a bootstrap token]
    #[arg(long, value_name = "FILE")]
    client_certificate: Option<PathBuf>,
    /// Its key [default: in the same file]
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// The certificate that clients see on the port with TLS; read again when the file changes [default: one that the hub signs, and
    /// `edge-ca.crt` in --cert-dir verifies]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Ask the API server for that certificate (signer kubernetes.io/kubelet-serving); somebody has to approve the request
    #[arg(long, conflicts_with = "tls_cert_file")]
    rotate_server_certificates: bool,
    /// More names and addresses of that certificate, beside the node's name, localhost and the address of the ports
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "tls_cert_file")]
    tls_san: Vec<String>,
}

impl Identity {
    fn bootstrap(&self) -> Result<Option<Bootstrap>> {
        let mode = self.bootstrap_mode.unwrap_or(match self.join_token.is_some() || self.bootstrap_file.is_some() {
            true => Mode::Token,
            false => Mode::KubeletCertificate,
        });
        match (mode, &self.join_token, &self.bootstrap_file) {
            (Mode::KubeletCertificate, None, None) => Ok(None),
            (Mode::KubeletCertificate, ..) => {
                bail!(
                    "--bootstrap-mode kubeletcertificate uses the certificate that kubelet keeps: leave --join-token and --bootstrap-file out"
                )
            }
            (Mode::Token, ..) if self.client_certificate.is_some() => {
                bail!("with a bootstrap token the hub keeps its certificate in --cert-dir: leave --client-certificate out")
            }
            (Mode::Token, _, Some(file)) => Ok(Some(Bootstrap::File(file.clone()))),
            (Mode::Token, Some(token), None) => Ok(Some(Bootstrap::Token { token: token.clone(), discovery: self.discovery()? })),
            (Mode::Token, None, None) => bail!("--bootstrap-mode token needs --join-token or --bootstrap-file"),
        }
    }

    fn discovery(&self) -> Result<Discovery> {
        let pins = &self.discovery_token_ca_cert_hash;
        match (&self.certificate_authority, pins.is_empty(), self.discovery_token_unsafe_skip_ca_verification) {
            (Some(file), ..) => Ok(Discovery::File(file.clone())),
            (None, false, _) => Ok(Discovery::Pinned(pins.clone())),
            (None, true, true) => Ok(Discovery::Unpinned),
            (None, true, false) => bail!(
                "--join-token needs a way to know the API server: --discovery-token-ca-cert-hash, --certificate-authority or --discovery-token-unsafe-skip-ca-verification"
            ),
        }
    }

    /// Whether the certificate of the port with TLS was asked for.
    pub fn asks_for_tls(&self) -> bool {
        self.tls_cert_file.is_some() || self.rotate_server_certificates || !self.tls_san.is_empty()
    }

    /// Where the certificates are, what the hub does for them, and what its clients see.
    pub fn options(&self, node_name: &str, addresses: &[IpAddr], tls: bool) -> Result<(Files, manager::Options, Vec<KeyPairFiles>)> {
        let bootstrap = self.bootstrap()?;
        let own_authority = self.cert_dir.join("ca.crt");
        let mut options = manager::Options { folder: self.cert_dir.clone(), ..manager::Options::default() };
        if bootstrap.is_some() && self.certificate_authority.is_none() {
            options.write_authority = Some(own_authority.clone());
        }
        let elsewhere = |mine: PathBuf, others: &str| if bootstrap.is_some() { mine } else { others.into() };
        let files = Files {
            certificate_authority: self
                .certificate_authority
                .clone()
                .unwrap_or_else(|| elsewhere(own_authority, "/etc/kubernetes/pki/ca.crt")),
            client_certificate: self
                .client_certificate
                .clone()
                .unwrap_or_else(|| elsewhere(options.client().current(), "/var/lib/kubelet/pki/kubelet-client-current.pem")),
            client_key: self.client_key.clone(),
        };
        let mut pairs = Vec::new();
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => pairs.push(KeyPairFiles { certificate: certificate.clone(), key: key.clone() }),
            _ if tls => {
                let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1", node_name].map(String::from).to_vec();
                names.extend(addresses.iter().filter(|address| !address.is_unspecified()).map(IpAddr::to_string));
                names.extend(self.tls_san.iter().cloned());
                names.sort();
                names.dedup();
                let one = |file: &Path| KeyPairFiles { certificate: file.into(), key: file.into() };
                if self.rotate_server_certificates {
                    pairs.push(one(&options.server().current()));
                    options.rotate_server = Some(names.clone());
                }
                pairs.push(one(&self_signed::pair(&self.cert_dir).current()));
                options.self_signed = Some(names);
            }
            _ => {}
        }
        options.bootstrap = bootstrap;
        Ok((files, options, pairs))
    }
}
