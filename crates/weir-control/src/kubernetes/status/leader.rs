//! Keeps the Lease by which one of several gateways writes.
use super::lease::{Clock, Election, RETRY_PERIOD, Step, lease};
use crate::kubernetes::client::LeaseName;
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{Api, Client, api::PostParams};
use rustix::time::{ClockId, clock_gettime};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub struct Leader {
    election: Mutex<Election>,
    leads: watch::Sender<bool>,
}

/// Time since the machine started. It goes on while the machine sleeps or the process is stopped.
fn clock() -> Clock {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Another name for each process, also for two in one Pod.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname")).unwrap_or_default();
    format!("{}_{}_{:x}", host.trim(), std::process::id(), clock().as_nanos())
}

impl Default for Leader {
    fn default() -> Leader {
        Leader { election: Election::new(identity()).into(), leads: watch::Sender::new(false) }
    }
}

impl Leader {
    fn election(&self) -> MutexGuard<'_, Election> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process may write now. To be asked right before each write.
    pub fn leads(&self) -> bool {
        self.election().leads(clock())
    }

    /// Tells when this process begins or ceases to lead.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Takes part in the election, for as long as the process lives. `trouble` is called with what prevents it.
    pub async fn run(&self, client: Client, name: LeaseName, trouble: impl Fn(Option<kube::Error>)) {
        let api: Api<Lease> = Api::namespaced(client, &name.namespace);
        loop {
            if let Ok(result) = timeout(RETRY_PERIOD * 2, self.attempt(&api, &name.name)).await {
                trouble(result.err());
            }
            let leads = self.leads();
            self.leads.send_if_modified(|before| std::mem::replace(before, leads) != leads);
            sleep(RETRY_PERIOD).await;
        }
    }

    /// Gives the Lease up, so that another gateway takes over at once.
    pub async fn resign(&self, client: Client, name: &LeaseName) -> kube::Result<()> {
        let api: Api<Lease> = Api::namespaced(client, &name.namespace);
        let Some(found) = api.get_opt(&name.name).await? else { return Ok(()) };
        let spec = self.election().resign(&found, clock());
        if let Some(spec) = spec {
            api.replace(&name.name, &PostParams::default(), &lease(&name.name, found.metadata.resource_version, spec)).await?;
        }
        Ok(())
    }

    async fn attempt(&self, api: &Api<Lease>, name: &str) -> kube::Result<()> {
        let found = api.get_opt(name).await?;
        let step = self.election().step(found.as_ref(), clock(), Timestamp::now());
        let version = found.and_then(|f| f.metadata.resource_version);
        let sent = clock();
        let done = match step {
            Step::Wait => return Ok(()),
            Step::Create(spec) => api.create(&PostParams::default(), &lease(name, None, spec)).await,
            Step::Update(spec) => api.replace(name, &PostParams::default(), &lease(name, version, spec)).await,
        };
        match done {
            Ok(_) => self.election().done(sent),
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => self.election().lost(),
            Err(e) => return Err(e),
        }
        Ok(())
    }
}
